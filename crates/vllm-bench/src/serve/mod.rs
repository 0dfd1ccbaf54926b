//! The load of many clients on a server that speaks OpenAI's protocol, and what they see.

mod arrivals;
mod client;
mod events;
mod load;
mod prompts;
mod report;

pub use arrivals::Arrivals;
pub use client::{Api, Client, ClientSettings};
pub use load::{Load, LoadSettings, apply_load};
pub use prompts::{TextRequest, to_text};
pub use report::{Goal, Metric, Observation, ReportSettings, ServeReport};

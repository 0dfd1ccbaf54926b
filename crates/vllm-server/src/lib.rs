//! The HTTP service: routes, authentication, server-sent events, limits, shutdown.

//! Who keeps an object, and the words of its users.

use url::Url;

/// Who keeps an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    S3,
    Google,
    Azure,
    /// A server that answers GET and, for outputs, PUT.
    Web,
}

impl Provider {
    /// By the scheme alone: the web address of an object in a store is one that everybody may read.
    pub(crate) fn of(url: &Url) -> Self {
        match url.scheme() {
            "s3" => Self::S3,
            "gs" => Self::Google,
            "az" => Self::Azure,
            _ => Self::Web,
        }
    }

    /// What the first part of an address names.
    pub(crate) fn place(self) -> &'static str {
        match self {
            Self::S3 | Self::Google => "bucket",
            Self::Azure => "container",
            Self::Web => "folder",
        }
    }

    /// The variables that hold credentials.
    pub(crate) fn credentials(self) -> &'static str {
        match self {
            Self::S3 => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            Self::Google => "GOOGLE_APPLICATION_CREDENTIALS",
            Self::Azure => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
            Self::Web => "the name and password in the address",
        }
    }

    /// How to do without credentials.
    pub(crate) fn anonymous(self) -> Option<&'static str> {
        match self {
            Self::S3 => Some("AWS_SKIP_SIGNATURE=true"),
            Self::Google => Some("GOOGLE_SKIP_SIGNATURE=true"),
            Self::Azure => Some("AZURE_SKIP_SIGNATURE=true"),
            Self::Web => None,
        }
    }

    /// The variable that names another server than the provider's own.
    pub(crate) fn endpoint(self) -> Option<&'static str> {
        match self {
            Self::S3 => Some("AWS_ENDPOINT_URL"),
            Self::Google => Some("GOOGLE_BASE_URL"),
            Self::Azure => Some("AZURE_STORAGE_ENDPOINT"),
            Self::Web => None,
        }
    }
}

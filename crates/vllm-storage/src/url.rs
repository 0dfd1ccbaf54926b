//! Addresses of objects.

use std::fmt;
use std::str::FromStr;

use url::Url;

use crate::error::{Error, Result};
use crate::provider::Provider;

const SCHEMES: [&str; 5] = ["s3", "gs", "az", "http", "https"];

/// The address of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectUrl(Url);

impl ObjectUrl {
    /// Whether this text is an address, rather than the path of a file.
    pub fn is_one(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| {
            scheme.len() > 1 && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
    }

    /// The last part of the address: the file's name.
    pub fn file_name(&self) -> &str {
        self.0.path().rsplit('/').next().unwrap_or_default()
    }

    pub(crate) fn as_url(&self) -> &Url {
        &self.0
    }

    pub(crate) fn provider(&self) -> Provider {
        Provider::of(&self.0)
    }
}

impl FromStr for ObjectUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |reason: String| Error::Url {
            url: text.to_owned(),
            reason,
        };
        let url = Url::parse(text).map_err(|error| refuse(error.to_string()))?;
        if !SCHEMES.contains(&url.scheme()) {
            let known = SCHEMES.join("://, ");
            return Err(refuse(format!("addresses begin with {known}://")));
        }
        if url.query().is_some() || url.fragment().is_some() {
            let reason = "an address with `?` or `#` cannot be used; download the file first";
            return Err(refuse(reason.to_owned()));
        }
        let found = Self(url);
        match found.0.host_str().is_some() && !found.file_name().is_empty() {
            true => Ok(found),
            false => Err(refuse(
                "names no object: expected scheme://place/name".to_owned(),
            )),
        }
    }
}

impl fmt::Display for ObjectUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A password in an address is nobody else's business.
        let mut url = self.0.clone();
        if url.password().is_some() {
            let _ = url.set_password(Some("***"));
        }
        f.write_str(url.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_paths() {
        for address in ["s3://b/k", "http://h/k", "ftp://h/k"] {
            assert!(ObjectUrl::is_one(address), "{address}");
        }
        for path in ["a.jsonl", "./s3/x", "C:\\a.txt", "a b://c", "-", "c://x"] {
            assert!(!ObjectUrl::is_one(path), "{path}");
        }
    }

    #[test]
    fn an_address_names_one_object() {
        let url: ObjectUrl = "s3://bucket/folder/rows.parquet".parse().unwrap();
        assert_eq!(url.file_name(), "rows.parquet");
        let secret: ObjectUrl = "https://me:word@host/a.txt".parse().unwrap();
        assert_eq!(secret.to_string(), "https://me:***@host/a.txt");
        for (text, part) in [
            ("ftp://host/a", "s3://, gs://"),
            ("s3://bucket", "names no object"),
            ("s3://bucket/folder/", "names no object"),
            ("https://host/a?sig=1", "download the file first"),
            ("http://[/a", "invalid"),
        ] {
            let message = text.parse::<ObjectUrl>().unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}

//! The address of an S3 service.

/// `http://host:port` or `https://host:port`, maybe with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    url: String,
    is_plain: bool,
}

impl Endpoint {
    /// Checks the form of an address; nothing is looked up.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        // The text is not repeated where it may hold a secret.
        let shown = if text.contains('@') { String::new() } else { format!(" {text:?}") };
        let bad = |why: &str| {
            format!("the endpoint{shown} {why}; write http://host:port or https://host:port")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("has no scheme"))?;
        let is_plain = match scheme {
            "http" => true,
            "https" => false,
            _ => return Err(bad("is neither http nor https")),
        };
        let rest = rest.trim_end_matches('/');
        let host = rest.split('/').next().unwrap_or_default();
        if host.is_empty() || host.starts_with(':') {
            return Err(bad("names no host"));
        }
        if host.contains('@') {
            return Err(bad("holds a user; credentials are settings of their own"));
        }
        if !rest.bytes().all(|c| c.is_ascii_graphic()) || rest.contains(['?', '#']) {
            return Err(bad("holds characters that an address cannot have"));
        }
        Ok(Self { url: format!("{scheme}://{rest}"), is_plain })
    }

    /// The address, without a slash at its end.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whether it is spoken to without TLS.
    pub(super) fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// What tells this service from others: the address without the scheme, which may change
    /// (TLS is turned on) without another service standing behind it.
    pub(super) fn identity(&self) -> String {
        let (_, rest) = self.url.split_once("://").unwrap_or(("", &self.url));
        rest.to_ascii_lowercase()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_no_part_of_who_it_is() {
        let identity = |text| Endpoint::parse(text).unwrap().identity();
        assert_eq!(identity("http://Store.example:9000/"), "store.example:9000");
        assert_eq!(identity("https://store.example:9000"), "store.example:9000");
        assert_ne!(identity("http://store.example:9000"), identity("http://store.example:9001"));
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, needle) in [
            ("localhost:9000", "no scheme"),
            ("ftp://host", "neither http nor https"),
            ("http://", "names no host"),
            ("http://:80", "names no host"),
            ("http://me:secret@host", "credentials are"),
            ("http://host name", "characters"),
            ("http://host/?x=y", "characters"),
        ] {
            let reason = Endpoint::parse(text).unwrap_err();
            assert!(reason.contains(needle) && reason.contains("http://host:port"), "{reason}");
            assert!(!reason.contains("secret"), "{reason}");
        }
    }
}

//! What is written of a device's use in an emergency: `emergency=allow,at_most=25%,when=free:512MiB`.

use codax_core::emergency::{AtMost, Emergency, When};
use codax_core::{Error, Result};
use serde::Deserialize;

/// Its keys.
pub(crate) const KEYS: [&str; 3] = ["emergency", "at_most", "when"];

/// What is written, as far as it has been read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EmergencyWish {
    allow: Option<bool>,
    at_most: Option<AtMost>,
    when: Option<When>,
}

/// A part of a device in the configuration: text, or a number of bytes.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "at_most: write a size, as \"512MiB\", or a part, as \"25%\"")]
pub(crate) enum WrittenPart {
    Text(String),
    Bytes(u64),
}

/// Whether a device may be used, in the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "emergency: write \"never\" or \"allow\"")]
pub(crate) enum WrittenWord {
    Text(String),
}

/// A condition in the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "when: write a condition, as \"free:512MiB\", \"some:150ms/1s\" or \"full:150ms/1s\""
)]
pub(crate) enum WrittenWhen {
    Text(String),
}

impl EmergencyWish {
    /// What is in the configuration.
    pub(crate) fn new(
        emergency: Option<&WrittenWord>,
        at_most: Option<&WrittenPart>,
        when: Option<&WrittenWhen>,
    ) -> Result<Self> {
        let mut wish = Self::default();
        let at_most = at_most.map(|part| match part {
            WrittenPart::Text(text) => text.clone(),
            WrittenPart::Bytes(bytes) => bytes.to_string(),
        });
        let word = emergency.map(|WrittenWord::Text(text)| text.as_str());
        let when = when.map(|WrittenWhen::Text(text)| text.as_str());
        for (key, value) in KEYS.into_iter().zip([word, at_most.as_deref(), when]) {
            if let Some(value) = value {
                wish.item(key, value)?;
            }
        }
        Ok(wish)
    }

    /// Takes an item of the command line; whether it is one of these.
    pub(crate) fn item(&mut self, key: &str, value: &str) -> Result<bool> {
        let named = |e: Error| Error::new(e.kind, format!("{key}: {e}"));
        match (key, value) {
            ("emergency", "allow") => self.allow = Some(true),
            ("emergency", "never") => self.allow = Some(false),
            ("emergency", _) => {
                return Err(Error::invalid(format!(
                    "emergency: `{}` is neither never nor allow",
                    value.escape_debug()
                )));
            }
            ("at_most", _) => self.at_most = Some(AtMost::parse(value).map_err(named)?),
            ("when", _) => self.when = Some(When::parse(value).map_err(named)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What it comes to: `None` for never, which is the default.
    pub(crate) fn check(self) -> Result<Option<Emergency>> {
        let more = if self.at_most.is_some() { "at_most" } else { "when" };
        match (self.allow, self.at_most.is_some() || self.when.is_some()) {
            (Some(true), _) => {
                Ok(Some(Emergency { at_most: self.at_most.unwrap_or(AtMost::ALL), when: self.when }))
            }
            (_, false) => Ok(None),
            (_, true) => Err(Error::invalid(format!(
                "`{more}` says how far an emergency may go: it wants emergency=allow"
            ))),
        }
    }
}

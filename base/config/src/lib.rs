//! Configuration: the value types, the loader and the commented default file.
//!
//! The sections themselves live beside what they configure. Each is a plain struct with
//! `#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]`,
//! `#[serde(default, deny_unknown_fields, rename_all = "camelCase")]`, a `Default`, and a doc comment on every field.
//! `--print-default-config` writes these comments into the file. The fields use the types of this crate, so that every
//! value that exists is valid:
//!
//! | type | in TOML | checked |
//! | --- | --- | --- |
//! | [`GoDuration`] | `"1m30s"` | syntax |
//! | [`BoundedDuration`] | `"5s"` | syntax, range |
//! | [`Bounded`] | `30` | range |
//! | [`ByteSize`] | `"64KiB"` or `65536` | syntax, range |
//! | [`Addr`], [`Addrs`] | `"127.0.0.1:3101"`, `":3101"`; a list or one string with commas | syntax |
//! | [`List`], [`StringList`] | `["a", "b"]` or `"a,b"` | syntax of each element |
//! | [`Secret`] | `"hunter2"`, `"env:NAME"`, `"file:/path"` | that it is there; never printed by `Debug` or an error |
//! | [`SecretList`] | `["a", "b"]`, `"a,file:/path"`, `"env:NAME"` with any number in it | the same |
//!
//! The bounds reach the file too: the comment gets the words "Allowed: …", so nobody has to write them by hand. A check
//! over several keys belongs to the owner of the section, and returns a [`ConfigError::value`] for each mistake.
//!
//! Keys are case-sensitive. goim's odd ones (`Whitelist`, `WhiteLog`) have a `#[serde(rename = "Whitelist")]` in their
//! struct. If a known key is written in another case, the error names it.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic or block if nobody reads

mod addr;
mod bounded;
mod bytes;
mod document;
mod duration;
mod error;
mod explain;
mod list;
mod load;
mod mistakes;
mod parts;
mod secret;
mod source;

pub use addr::{Addr, AddrError, Addrs, Listener, shared_ports};
pub use bounded::{Bounded, OutOfBounds};
pub use bytes::{ByteSize, ByteSizeError};
pub use document::commented_default;
pub use duration::{BoundedDuration, DurationError, GoDuration};
pub use error::ConfigError;
pub use list::{List, StringList};
pub use load::{Draft, Loaded, draft, load};
pub use mistakes::Mistakes;
pub use parts::Parts;
pub use secret::{Secret, SecretError, SecretList};
pub use source::read_table;

/// A schema keyword of this crate: the bounds of a value in words, for the comment in the default file.
const ALLOWED: &str = "x-allowed";

/// The range `min..=max` in words; `print` prints one value. `u64::MAX` means no upper bound.
fn range_in_words(min: u64, max: u64, print: impl Fn(u64) -> String) -> String {
    match (min, max) {
        (min, u64::MAX) => format!("at least {}", print(min)),
        (min, max) => format!("{} to {}", print(min), print(max)),
    }
}

/// The schema of a value that TOML has as a string.
fn string_schema(allowed: Option<String>) -> schemars::Schema {
    let mut schema = schemars::json_schema!({ "type": "string" });
    if let Some(allowed) = allowed {
        schema.insert(ALLOWED.to_owned(), allowed.into());
    }
    schema
}

//! Texts that must not reach a log.

use std::{borrow::Cow, env, fmt, fs, ops::Deref, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{List, StringList, string_schema};

/// A password or a token. `Debug` prints only whether there is one. There is no `Display`.
///
/// A configuration has it as it is, or as `env:NAME`, the value of an environment variable, or as `file:/path`, the
/// content of a file without the line end after it. These are read once, together with the configuration.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Secret(String);

/// The secret is not where the configuration says. The operator has to change one or the other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set, or empty, or not UTF-8.
    #[error("the environment variable {0} is not set")]
    Variable(String),
    /// The file cannot be read, or is empty.
    #[error("the file {path} {why}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Secret {
    /// The text itself, for the one place that needs it. It must be compared in constant time with what an outsider
    /// sent.
    pub fn get(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl FromStr for Secret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        if let Some(name) = text.strip_prefix("env:") {
            let value = env::var(name).ok().filter(|value| !value.is_empty());
            return value.map(Secret).ok_or_else(|| SecretError::Variable(name.to_owned()));
        }
        let Some(path) = text.strip_prefix("file:") else { return Ok(text.into()) };
        let failed = |why| SecretError::File { path: path.to_owned(), why };
        let content = fs::read_to_string(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
        match content.trim_end_matches(['\r', '\n']) {
            "" => Err(failed("is empty".to_owned())),
            secret => Ok(secret.into()),
        }
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "Secret(none)" } else { "Secret(hidden)" })
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        string_schema(None)
    }
}

/// Passwords or tokens, any number of them: a [`List`] whose elements are written like a [`Secret`]. But `env:NAME`
/// stands for everything in the variable, with commas. The variable has to be set, but may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SecretList(List<Secret>);

impl SecretList {
    /// Reads one element.
    fn read(text: &str) -> Result<Vec<Secret>, SecretError> {
        let Some(name) = text.strip_prefix("env:") else { return Ok(vec![text.parse()?]) };
        let value = env::var(name).map_err(|_| SecretError::Variable(name.to_owned()))?;
        Ok(SecretList::parts(&value))
    }

    fn parts(value: &str) -> Vec<Secret> {
        value.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Secret::from).collect()
    }
}

impl Deref for SecretList {
    type Target = [Secret];

    fn deref(&self) -> &[Secret] {
        self.0.get()
    }
}

impl<'de> Deserialize<'de> for SecretList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let elements = StringList::deserialize(deserializer)?;
        let read: Result<Vec<_>, _> = elements.iter().map(|text| SecretList::read(text)).collect();
        let secrets: Vec<Secret> = read.map_err(de::Error::custom)?.into_iter().flatten().collect();
        Ok(SecretList(secrets.into()))
    }
}

impl JsonSchema for SecretList {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "SecretList".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        List::<Secret>::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_stands_as_it_is_or_in_the_environment_or_in_a_file() {
        assert_eq!("hunter2".parse(), Ok(Secret::from("hunter2")));
        // Every process has it.
        let path = std::env::var("PATH").expect("PATH is set");
        assert_eq!("env:PATH".parse::<Secret>().unwrap().get(), path);
        let missing = "env:HALLEY_NO_SUCH_VARIABLE".parse::<Secret>().unwrap_err();
        assert_eq!(missing.to_string(), "the environment variable HALLEY_NO_SUCH_VARIABLE is not set");

        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        let reference = format!("file:{}", file.display());
        let refused = |why: &str| {
            let error = reference.parse::<Secret>().unwrap_err().to_string();
            assert!(error.contains("secret") && error.contains(why), "{error}");
        };
        refused("cannot be read");
        fs::write(&file, "\n").unwrap();
        refused("is empty");
        fs::write(&file, "hunter2 \r\n").unwrap();
        assert_eq!(reference.parse::<Secret>().unwrap().get(), "hunter2 ");
    }

    #[test]
    fn a_variable_of_a_list_holds_any_number_and_has_to_be_set() {
        assert_eq!(SecretList::parts("sesame, other,"), ["sesame".into(), "other".into()]);
        for none in ["", " ", ","] {
            assert_eq!(SecretList::parts(none), [], "{none:?}");
        }
        let list = |toml: &str| {
            let file: BTreeMap<String, SecretList> =
                toml::from_str(toml).map_err(|e| e.message().to_owned())?;
            Ok::<_, String>(file["it"].iter().map(|secret| secret.get().to_owned()).collect::<Vec<_>>())
        };
        let path = env::var("PATH").expect("PATH is set");
        let mut all = vec!["a".to_owned()];
        all.extend(SecretList::parts(&path).iter().map(|part| part.get().to_owned()));
        assert_eq!(list(r#"it = ["a", "env:PATH"]"#).as_ref(), Ok(&all));
        assert_eq!(list(r#"it = "a,env:PATH""#), Ok(all));
        let missing = list(r#"it = ["env:HALLEY_NO_SUCH_VARIABLE"]"#).unwrap_err();
        assert!(missing.contains("HALLEY_NO_SUCH_VARIABLE is not set"), "{missing}");
    }

    #[test]
    fn debug_tells_only_whether_there_is_one() {
        assert_eq!(format!("{:?}", Secret::from("hunter2")), "Secret(hidden)");
        assert_eq!(format!("{:?}", Secret::default()), "Secret(none)");
    }
}

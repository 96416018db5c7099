//! Parameters of a URL: repeated names, percent-decoding, and clear words about what is wrong.

use std::{borrow::Cow, str::FromStr};

use super::answer::ApiError;

/// The parameters of one request, in their order.
#[derive(Debug)]
pub(super) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Takes the part of a URL behind `?`.
    ///
    /// # Errors
    /// A percent sign without two hexadecimal digits behind it, or bytes that are no UTF-8.
    pub(super) fn parse(query: Option<&'a str>) -> Result<Self, ApiError> {
        let mut pairs = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Query(pairs))
    }

    /// The first value of a name, if it is there and not empty. As in goim, an empty value counts as missing.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| &**value).filter(|value| !value.is_empty())
    }

    /// As [`get`](Self::get), for a parameter that must be there.
    pub(super) fn required(&self, name: &'static str) -> Result<&str, ApiError> {
        self.get(name).ok_or_else(|| ApiError::BadRequest(format!("{name} is required")))
    }

    /// Every value of a name. There must be at least one, and none may be empty.
    pub(super) fn all<T>(
        &self,
        name: &'static str,
        take: impl Fn(&str) -> Result<T, ApiError>,
    ) -> Result<Vec<T>, ApiError> {
        let values = self.0.iter().filter(|(n, _)| n == name).map(|(_, value)| match &**value {
            "" => Err(ApiError::BadRequest(format!("{name} is empty"))),
            value => take(value),
        });
        let values = values.collect::<Result<Vec<T>, ApiError>>()?;
        if values.is_empty() {
            return Err(ApiError::BadRequest(format!("{name} is required")));
        }
        Ok(values)
    }
}

/// A number. `wanted` says in the error which numbers are allowed.
pub(super) fn number<T: FromStr>(name: &str, value: &str, wanted: &str) -> Result<T, ApiError> {
    value.parse().map_err(|_| ApiError::BadRequest(format!("{name} is not {wanted}")))
}

/// Decodes `%41` and `+`. Borrows if there is nothing to decode.
fn decode(text: &str) -> Result<Cow<'_, str>, ApiError> {
    if !text.contains(['%', '+']) {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
                match (digit(bytes.next()), digit(bytes.next())) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => {
                        return Err(ApiError::BadRequest(
                            "a percent sign in the URL is not followed by two hexadecimal digits".into(),
                        ));
                    }
                }
            }
            byte => byte,
        });
    }
    String::from_utf8(out).map(Cow::Owned).map_err(|_| ApiError::BadRequest("the URL is not UTF-8".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(query: &str) -> Option<Vec<(String, String)>> {
        let query = Query::parse(Some(query)).ok()?;
        Some(query.0.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    #[test]
    fn names_repeat_and_keep_their_order() {
        let query = Query::parse(Some("keys=b&operation=7&keys=a&keys=b")).unwrap();
        assert_eq!(query.all("keys", |key| Ok(key.to_owned())).unwrap(), ["b", "a", "b"]);
        assert_eq!((query.get("operation"), query.get("speed")), (Some("7"), None));
        assert!(Query::parse(None).unwrap().get("keys").is_none());
    }

    #[test]
    fn escapes_are_undone_or_refused() {
        for (query, name, value) in [
            ("a=b", "a", "b"),
            ("a=%7Bx+y%7d", "a", "{x y}"),
            ("%61=%E4%B8%8A", "a", "上"),
            ("a=b=c%3d", "a", "b=c="),
            ("a=1,2", "a", "1,2"),
            ("a", "a", ""),
            ("&&a=1&", "a", "1"),
        ] {
            assert_eq!(pairs(query), Some(vec![(name.to_owned(), value.to_owned())]), "{query}");
        }
        for query in ["a=%", "a=%4", "a=%zz", "a=%ff", "%e4%b8=1", "a=%+1", "a=1&b=%C0%80"] {
            assert_eq!(pairs(query), None, "{query}");
        }
    }

    #[test]
    fn empty_is_the_same_as_missing() {
        let query = Query::parse(Some("type=&keys=a&keys=")).unwrap();
        assert!(query.required("type").is_err() && query.required("room").is_err());
        assert!(query.all("keys", |key| Ok(key.to_owned())).is_err());
        assert!(query.all("mids", |mid| Ok(mid.to_owned())).is_err());
    }
}

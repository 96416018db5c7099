//! Reads JSON as tolerantly as Go's `encoding/json`, by which goim reads logins: texts and names may contain what is no
//! Unicode.

use std::borrow::Cow;

/// The replacement in a JSON text for half a surrogate pair. It is as long as what it replaces.
const REPLACED_ESCAPE: &str = "\\ufffd";

/// The JSON text as Go reads it. Each byte that is not UTF-8 and each `\u` escape that is half a surrogate pair becomes
/// U+FFFD. Copies the text only if there is one. Outside of texts and names, U+FFFD is as wrong as what it replaces.
pub(crate) fn readable(json: &[u8]) -> Cow<'_, str> {
    let mut text = match std::str::from_utf8(json) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(utf8_of(json)),
    };
    for at in lone_surrogates(&text) {
        text.to_mut().replace_range(at..at + REPLACED_ESCAPE.len(), REPLACED_ESCAPE);
    }
    text
}

/// Whether a name in JSON is that of a field; `field` is in small ASCII letters. Go folds cases as Unicode does, so `ſ`
/// counts as an s and the Kelvin sign as a k.
pub(crate) fn is_name(name: &str, field: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(field.chars())
}

/// Makes one U+FFFD for each byte that is not UTF-8. Rust's own function makes one for several.
fn utf8_of(bytes: &[u8]) -> String {
    bytes.utf8_chunks().fold(String::with_capacity(bytes.len()), |mut text, chunk| {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
        text
    })
}

/// Where escapes begin that are half a surrogate pair.
fn lone_surrogates(json: &str) -> Vec<usize> {
    let (mut found, mut at) = (Vec::new(), 0);
    let rest = |at: usize| json.as_bytes().get(at..).unwrap_or_default();
    while let Some(skipped) = rest(at).iter().position(|&byte| byte == b'\\') {
        at += skipped;
        at += match (code_unit(rest(at)), code_unit(rest(at + 6))) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                found.push(at);
                6
            }
            // The character after the backslash belongs to it, even if it is another backslash.
            (None, _) => 2,
            (Some(_), _) => 6,
        };
    }
    found
}

/// The UTF-16 code unit of an escape at the start of the text.
fn code_unit(json: &[u8]) -> Option<u16> {
    let digits = json.strip_prefix(b"\\u")?.get(..4)?;
    let digits =
        std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_readable_is_not_copied() {
        for json in ["", r#"{"a":"é"}"#, r#"{"a":"\ud83d\ude00 \\ud800 \u0041"}"#, "\\", r"\u", r"\ud8"] {
            assert!(matches!(readable(json.as_bytes()), Cow::Borrowed(same) if same == json), "{json}");
        }
    }

    #[test]
    fn each_byte_and_each_half_pair_is_replaced() {
        for (json, read) in [
            (&b"\xe5\xae"[..], "\u{fffd}\u{fffd}"),
            (b"a\xed\xa0\x80b", "a\u{fffd}\u{fffd}\u{fffd}b"),
            (br"\ud800", r"\ufffd"),
            (br"\udc00\ud800\uDBFF\uDFFF", r"\ufffd\ufffd\uDBFF\uDFFF"),
            (br"\\\ud800\\ud800", r"\\\ufffd\\ud800"),
            (b"\xff\\ud800\\u+123", "\u{fffd}\\ufffd\\u+123"),
        ] {
            assert_eq!(readable(json), read, "{json:?}");
        }
    }
}

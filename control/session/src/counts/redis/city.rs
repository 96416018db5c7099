//! CityHash32 as Google published it. goim uses it to spread rooms over fields.

const C1: u32 = 0xcc9e_2d51;
const C2: u32 = 0x1b87_3593;

/// The hash of a text.
pub(super) fn hash(text: &[u8]) -> u32 {
    // Room ids are far shorter than 4 GiB.
    let len = text.len() as u32;
    match len {
        0..=4 => up_to_4(text, len),
        5..=12 => up_to_12(text, len),
        13..=24 => up_to_24(text, len),
        _ => longer(text, len),
    }
}

fn up_to_4(text: &[u8], len: u32) -> u32 {
    let (mut b, mut c) = (0u32, 9u32);
    for byte in text {
        // Signed, as a C char is.
        b = b.wrapping_mul(C1).wrapping_add(*byte as i8 as u32);
        c ^= b;
    }
    finish(mix(b, mix(len, c)))
}

fn up_to_12(text: &[u8], len: u32) -> u32 {
    let end = text.len();
    let a = len.wrapping_add(word(text, 0));
    let (b, d) = (len.wrapping_mul(5).wrapping_add(word(text, end - 4)), len.wrapping_mul(5));
    let c = 9u32.wrapping_add(word(text, (end >> 1) & 4));
    finish(mix(c, mix(b, mix(a, d))))
}

fn up_to_24(text: &[u8], len: u32) -> u32 {
    let (end, half) = (text.len(), text.len() >> 1);
    let words = [half - 4, 4, end - 8, half, 0, end - 4];
    finish(words.into_iter().fold(len, |h, at| mix(word(text, at), h)))
}

fn longer(text: &[u8], len: u32) -> u32 {
    let end = text.len();
    let tail = |before: usize| spread(word(text, end - before));
    let (mut h, mut g, mut f) = (len, C1.wrapping_mul(len), C1.wrapping_mul(len));
    h = step(step(h ^ tail(4), 19) ^ tail(16), 19);
    g = step(step(g ^ tail(8), 19) ^ tail(12), 19);
    f = step(f.wrapping_add(tail(20)), 19);
    for at in (0..(end - 1) / 20).map(|round| round * 20) {
        let a0 = spread(word(text, at));
        let a1 = word(text, at + 4);
        let a2 = spread(word(text, at + 8));
        let a3 = spread(word(text, at + 12));
        let a4 = word(text, at + 16);
        h = step(h ^ a0, 18);
        f = f.wrapping_add(a1).rotate_right(19).wrapping_mul(C1);
        g = step(g.wrapping_add(a2), 18);
        h = step(h ^ a3.wrapping_add(a1), 19);
        g = (g ^ a4).swap_bytes().wrapping_mul(5);
        h = h.wrapping_add(a4.wrapping_mul(5)).swap_bytes();
        f = f.wrapping_add(a0);
        (f, h, g) = (g, f, h);
    }
    let twice = |x: u32| x.rotate_right(11).wrapping_mul(C1).rotate_right(17).wrapping_mul(C1);
    let (g, f) = (twice(g), twice(f));
    h = step(h.wrapping_add(g), 19).rotate_right(17).wrapping_mul(C1);
    step(h.wrapping_add(f), 19).rotate_right(17).wrapping_mul(C1)
}

/// Four bytes, the lowest first.
fn word(text: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]])
}

fn spread(word: u32) -> u32 {
    word.wrapping_mul(C1).rotate_right(17).wrapping_mul(C2)
}

fn step(h: u32, by: u32) -> u32 {
    h.rotate_right(by).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

fn mix(word: u32, h: u32) -> u32 {
    step(h ^ spread(word), 19)
}

fn finish(mut h: u32) -> u32 {
    h = (h ^ h >> 16).wrapping_mul(0x85eb_ca6b);
    h = (h ^ h >> 13).wrapping_mul(0xc2b2_ae35);
    h ^ h >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_fall_into_goims_fields() {
        for (room, field) in [
            ("live://1000", 43),
            ("live://2000", 54),
            ("live://1", 19),
            ("test://1", 28),
            ("a", 13),
            ("live://solo", 0),
            ("game://an-even-longer-room-name-over-24-bytes", 33),
        ] {
            assert_eq!(hash(room.as_bytes()) % 64, field, "{room}");
        }
    }

    #[test]
    fn any_length_has_a_hash() {
        let text: Vec<u8> = (0..=255).cycle().take(600).collect();
        let hashes: std::collections::HashSet<u32> = (0..text.len()).map(|len| hash(&text[..len])).collect();
        assert_eq!(hashes.len(), text.len());
    }
}

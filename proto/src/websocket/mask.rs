//! Masking (RFC 6455 section 5.3).

/// XORs `data` with `mask`. The first byte of `data` is byte `offset` of the frame's payload. Applying it twice changes
/// nothing.
pub(super) fn apply(mask: [u8; 4], offset: usize, data: &mut [u8]) {
    let mut mask = mask;
    mask.rotate_left(offset % 4);
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = data.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_rule_of_the_rfc_at_every_length_and_offset() {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        for len in 0..40 {
            for offset in 0..9 {
                let mut data: Vec<u8> = (0..len).collect();
                apply(mask, offset, &mut data);
                for (i, &byte) in data.iter().enumerate() {
                    assert_eq!(byte, i as u8 ^ mask[(offset + i) % 4], "len {len} offset {offset} byte {i}");
                }
            }
        }
    }
}

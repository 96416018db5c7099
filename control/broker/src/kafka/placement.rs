//! Tells to which partition a record key belongs.

use crate::record::fnv1a;

/// The partition of `key` among `partitions` (at least 1): 32-bit FNV-1a, taken as a signed number without its sign.
/// Go's logic puts a key into the same partition, since this is sarama's default. Our producer does so with
/// librdkafka's `fnv1a_random`.
pub(super) fn partition_of(key: &str, partitions: u32) -> u32 {
    fnv1a(key).cast_signed().unsigned_abs() % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// sarama's `NewHashPartitioner`, word for word in arithmetic: remainder of the signed hash, then its sign dropped.
    fn sarama(hash: u32, partitions: i32) -> i32 {
        (hash.cast_signed() % partitions).abs()
    }

    #[test]
    fn keys_are_filed_where_sarama_files_them() {
        // Published vectors of 32-bit FNV-1a (draft-eastlake-fnv), most of them negative as signed numbers.
        for (key, hash) in [
            ("a", 0xe40c_292c),
            ("b", 0xe70c_2de5),
            ("foobar", 0xbf9c_f968),
            ("foo", 0xa9f3_7ed7),
            ("foob", 0x3f50_76ef),
            ("fooba", 0x39aa_a18a),
        ] {
            for partitions in [1, 2, 3, 4, 7, 64, 1000] {
                let ours = partition_of(key, partitions as u32);
                assert_eq!(ours as i32, sarama(hash, partitions), "{key} of {partitions}");
            }
        }
    }

    #[test]
    fn the_most_negative_hash_has_a_partition() {
        assert_eq!(i32::MIN.unsigned_abs() % 7, sarama(0x8000_0000, 7) as u32);
    }
}

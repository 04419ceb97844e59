//! The partition of a key, as Kafka's own clients have it: murmur2 over the number of partitions.

/// The partition of a key (Apache Kafka, `BuiltInPartitioner.partitionForKey`), so that records of a connection are where other
/// producers put messages of the same key. `count` is 1 or more.
pub(super) fn partition(key: &[u8], count: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % count
}

/// MurmurHash2 of 32 bits with Kafka's seed (Apache Kafka, `Utils.murmur2`).
fn murmur2(data: &[u8]) -> u32 {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (chunks, rest) = data.as_chunks::<4>();
    let mut hash = chunks.iter().fold(SEED ^ length, |hash, chunk| {
        let word = u32::from_le_bytes(*chunk).wrapping_mul(FACTOR);
        let word = (word ^ (word >> 24)).wrapping_mul(FACTOR);
        hash.wrapping_mul(FACTOR) ^ word
    });
    if !rest.is_empty() {
        let word = rest.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte));
        hash = (hash ^ word).wrapping_mul(FACTOR);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(FACTOR);
    hash ^ (hash >> 15)
}

const SEED: u32 = 0x9747_b28c;

const FACTOR: u32 = 0x5bd1_e995;

#[cfg(test)]
mod tests {
    use super::*;

    /// As Kafka's own test has them (`UtilsTest.testMurmur2`).
    #[test]
    fn hashes() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
        assert_eq!(partition(b"abc", 1), 0);
        assert_eq!(partition(b"abc", 10), 7);
    }
}

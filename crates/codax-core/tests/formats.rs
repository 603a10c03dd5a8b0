//! Frame records, commit words, paths and units: what is written can be read.

use codax_core::frame::{FrameFlags, FrameRecord, FrameState, OWNER_MAX, PAGE_MAX};
use codax_core::live::{decode_word, encode_word};
use codax_core::name::StorePath;
use codax_core::units::{format_size, parse_duration, parse_rate, parse_size};
use codax_core::{ErrorKind, FileId, MoveId, PageNo};
use proptest::prelude::*;
use std::time::Duration;

fn record() -> impl Strategy<Value = FrameRecord> {
    use FrameState::{Free, Held, Reserved, Retired, Used};
    let owner = prop::option::of((1..=OWNER_MAX.0).prop_map(FileId));
    let state = prop::sample::select(vec![Free, Used, Reserved, Held, Retired]);
    (owner, 0..=PAGE_MAX.0, state, any::<[u8; 4]>()).prop_map(|(owner, page, state, bytes)| {
        let [flags, pins, cpu_heat, device_heat] = bytes;
        let flags = FrameFlags::from_bits_retain(flags);
        FrameRecord { owner, page: PageNo(page), state, flags, pins, cpu_heat, device_heat }
    })
}

proptest! {
    #[test]
    fn frame_records_round_trip(record in record()) {
        prop_assert_eq!(FrameRecord::decode(record.encode()), Ok(record));
    }

    #[test]
    fn every_frame_record_that_decodes_encodes_to_itself(words in any::<[u64; 2]>(), state in 0..8u64) {
        let words = [words[0], words[1] & !(0xff << 24) | state << 24];
        match FrameRecord::decode(words) {
            Ok(record) => prop_assert_eq!(record.encode(), words),
            Err(error) => {
                prop_assert_eq!(error.kind, ErrorKind::Corrupt);
                prop_assert!(state > 4);
            }
        }
    }

    #[test]
    fn commit_words_round_trip(id in any::<u32>(), count in 0..1u32 << 24) {
        prop_assert_eq!(decode_word(encode_word(MoveId(id), count)), Some((id & 0xff_ffff, count)));
    }

    #[test]
    fn a_damaged_commit_word_says_nothing(id in any::<u32>(), count in 0..1u32 << 24, bits in prop::collection::btree_set(0..64u32, 1..3)) {
        let damaged = bits.iter().fold(encode_word(MoveId(id), count), |word, bit| word ^ 1 << bit);
        prop_assert_eq!(decode_word(damaged), None);
    }

    #[test]
    fn paths_round_trip_and_never_panic(bytes in prop::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..40)) {
        if let Ok(path) = StorePath::parse(&bytes) {
            prop_assert_eq!(StorePath::parse(&path.to_bytes()), Ok(path.clone()));
            prop_assert!(!path.to_string().chars().any(char::is_control));
        }
    }

    #[test]
    fn sizes_round_trip(number in any::<u64>(), small in 0..1u64 << 24) {
        prop_assert_eq!(parse_size(&number.to_string()), Ok(number));
        for (shift, units) in [(10, ["KiB", "K"]), (20, ["MiB", "M"]), (30, ["GiB", "G"]), (40, ["TiB", "T"])] {
            for unit in units {
                prop_assert_eq!(parse_size(&format!("{small}{unit}")), Ok(small << shift));
                let large = parse_size(&format!("{number}{unit}"));
                prop_assert_eq!(large.ok(), number.checked_mul(1 << shift));
            }
        }
    }

    #[test]
    fn sizes_for_people_are_near(bytes in any::<u64>()) {
        let text = format_size(bytes);
        let (number, unit) = text.split_once(' ').unwrap();
        let unit = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].iter().position(|&u| u == unit).unwrap();
        let unit = 1u128 << (10 * unit);
        let tenths: u128 = match number.split_once('.') {
            Some((whole, tenth)) => whole.parse::<u128>().unwrap() * 10 + tenth.parse::<u128>().unwrap(),
            None => number.parse::<u128>().unwrap() * 10,
        };
        prop_assert!((tenths * unit).abs_diff(u128::from(bytes) * 10) * 2 <= unit, "{}", text);
        prop_assert!(tenths < 10_240);
    }

    #[test]
    fn durations_and_rates_round_trip(number in 1..1u64 << 20, fraction in 0..1000u64) {
        prop_assert_eq!(parse_duration(&format!("{number}ms")), Ok(Duration::from_millis(number)));
        prop_assert_eq!(parse_duration(&format!("{number}h")), Ok(Duration::from_secs(number * 3600)));
        prop_assert_eq!(parse_rate(&format!("{number}.{fraction:03}MB/s")), Ok(number * 1_000_000 + fraction * 1_000));
    }

    #[test]
    fn nonsense_is_an_error_and_never_a_panic(text in "\\PC{0,12}|[0-9.]{1,45}(GB/s|s|m|T)?") {
        for kind in [parse_size(&text).err(), parse_duration(&text).err(), parse_rate(&text).err()].into_iter().flatten().map(|e| e.kind) {
            prop_assert_eq!(kind, ErrorKind::Invalid);
        }
    }
}

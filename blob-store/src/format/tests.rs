//! Round trips, and bytes that nobody wrote.

use std::sync::Arc;

use p2p_core::{BuildId, ChunkInfo, Digest, Entry, EntryKind, Manifest};
use proptest::prelude::*;

use super::build::{Beginning, BuildObject, Head, Notes};
use super::bytes::{Cursor, put_number};
use super::codec::{compress, expand};
use super::error::FormatError;
use super::index::{Index, PackPart, PackRef};
use super::pack::{PACK_HEADER_BYTES, PackTable, decode_footer, footer, header};
use super::segment::{Coder, Run, SEGMENT_BYTES_MAX, Segment};
use super::{build, keys, pack};

/// A build of one file whose chunks are these.
fn manifest(chunks: &[&[u8]]) -> Manifest {
    let infos: Vec<ChunkInfo> = chunks
        .iter()
        .map(|bytes| ChunkInfo { digest: Digest::of(bytes), size: bytes.len().try_into().unwrap() })
        .collect();
    let size = chunks.iter().map(|bytes| bytes.len() as u64).sum();
    let kind = EntryKind::File { size, executable: true };
    Manifest::new(vec![Entry { path: "program".into(), kind }], infos).unwrap()
}

fn build_of(manifest: &Manifest) -> BuildId {
    BuildId::of_manifest(&manifest.encode().unwrap())
}

fn raw(offset: u64, plain: u32, runs: Vec<Run>) -> Segment {
    Segment { offset, stored: plain, plain, coder: Coder::Raw, runs }
}

const START: u64 = PACK_HEADER_BYTES as u64;

/// Four chunks, two of them equal, in two packs, one with bytes of another build.
fn sample() -> (BuildId, BuildObject) {
    let manifest = manifest(&[b"one", b"three", b"one", b"fifteen"]);
    let parts = vec![
        PackPart {
            pack: PackRef { digest: Digest::of(b"p1"), bytes: 1000 },
            segments: vec![raw(START, 8, vec![Run::Chunks { first: 0, count: 2 }])],
        },
        PackPart {
            pack: PackRef { digest: Digest::of(b"p2"), bytes: 2000 },
            segments: vec![raw(
                START + 10,
                12,
                vec![Run::Other { bytes: 5 }, Run::Chunks { first: 3, count: 1 }],
            )],
        },
    ];
    let notes = Notes { app: "web".into(), published_ms: 7, bytes: 18, chunk_count: 4 };
    let index = Index::new(&manifest, parts).unwrap();
    (build_of(&manifest), BuildObject { notes, manifest: Arc::new(manifest), index })
}

#[test]
fn a_build_round_trips_and_shows_its_packs_first() {
    let (id, object) = sample();
    let bytes = object.encode().unwrap();
    assert_eq!(BuildObject::decode(id, &bytes), Ok(object.clone()));
    let mut shown = 0;
    let head = loop {
        match Head::decode(&bytes[..shown]).unwrap() {
            Beginning::Head(head) => break head,
            Beginning::Needs(more) => {
                assert!(more > shown, "{more} bytes do not help after {shown}");
                shown = more;
            }
        }
    };
    assert_eq!(head.notes, object.notes);
    assert_eq!(head.packs.len(), 2);
    assert!(shown < bytes.len() - object.manifest.encode().unwrap().len());
}

#[test]
fn equal_chunks_have_one_place() {
    let (_, object) = sample();
    let places: Vec<_> =
        object.manifest.layout().indices().map(|chunk| object.index.place(chunk)).collect();
    assert_eq!(places[0], places[2]);
    assert_eq!((places[1].segment, places[1].offset), (0, 3));
    assert_eq!((places[3].segment, places[3].offset), (1, 5));
}

/// Goal: nothing of a damaged build is believed, wherever the damage is.
#[test]
fn every_flipped_bit_of_a_build_is_found() {
    let (id, object) = sample();
    let good = object.encode().unwrap();
    for position in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[position] ^= 1 << bit;
            assert!(BuildObject::decode(id, &bad).is_err(), "bit {bit} of byte {position}");
        }
    }
    for length in 0..good.len() {
        assert!(BuildObject::decode(id, &good[..length]).is_err(), "{length} bytes");
    }
    assert!(BuildObject::decode(id, &[good.as_slice(), b"x"].concat()).is_err());
    let other = build_of(&manifest(&[b"x"]));
    assert!(matches!(BuildObject::decode(other, &good), Err(FormatError::Manifest(_))));
}

/// Goal: an index that was written by somebody who wants to harm is refused, with right checksums.
#[test]
fn impossible_indices_are_refused() {
    let manifest = manifest(&[b"one", b"three"]);
    let pack = PackRef { digest: Digest::of(b"p"), bytes: 100 };
    let both = vec![Run::Chunks { first: 0, count: 2 }];
    let chunk = |first| Run::Chunks { first, count: 1 };
    let cases: Vec<(&str, Vec<Segment>)> = vec![
        ("no segment", vec![]),
        ("a chunk is missing", vec![raw(START, 3, vec![chunk(0)])]),
        ("in the header", vec![raw(START - 1, 8, both.clone())]),
        ("past the pack", vec![raw(93, 8, both.clone())]),
        ("offset overflows", vec![raw(u64::MAX, 8, both.clone())]),
        ("too short for its chunks", vec![raw(START, 7, both.clone())]),
        ("no such chunk", vec![raw(START, 8, vec![Run::Chunks { first: 1, count: 2 }])]),
        ("numbers overflow", vec![raw(START, 8, vec![Run::Chunks { first: u32::MAX, count: 9 }])]),
        ("twice", vec![raw(START, 8, both.clone()), raw(START + 8, 3, vec![chunk(0)])]),
        (
            "foreign bytes overflow",
            vec![raw(START, 8, vec![Run::Other { bytes: u32::MAX }, both[0]])],
        ),
    ];
    for (name, segments) in cases {
        let refused = Index::new(&manifest, vec![PackPart { pack, segments }]);
        assert!(refused.is_err(), "{name}");
    }
    let huge = PackRef { bytes: pack::PACK_BYTES_MAX + 1, ..pack };
    let parts = vec![PackPart { pack: huge, segments: vec![raw(START, 8, both)] }];
    assert!(Index::new(&manifest, parts).is_err(), "a pack larger than any");
}

/// Goal: a number that claims a billion of something costs no memory and no time.
#[test]
fn claimed_lengths_cost_nothing() {
    let manifest = manifest(&[b"one"]);
    let pack = PackRef { digest: Digest::of(b"p"), bytes: 100 };
    for claimed in [1 << 20, 1 << 32, u64::MAX] {
        let mut many_segments = vec![];
        put_number(&mut many_segments, claimed);
        assert!(Index::decode(&manifest, &[pack], &many_segments).is_err());

        let mut many_runs = vec![];
        put_number(&mut many_runs, 1);
        raw(START, 3, vec![]).encode(&mut many_runs);
        many_runs.pop();
        put_number(&mut many_runs, claimed);
        assert!(Index::decode(&manifest, &[pack], &many_runs).is_err());

        let mut long = vec![];
        put_number(&mut long, claimed);
        assert_eq!(Cursor::new(&long).counted(), None);
    }
}

#[test]
fn what_a_patch_needs_is_told_from_damage() {
    let mut with_base = header(build_of(&manifest(&[b"x"])), 0);
    with_base[8 + 32] = 1;
    let refused = PackTable::decode(&with_base);
    assert!(matches!(refused, Err(FormatError::Unsupported { .. })), "{refused:?}");

    let segment = raw(START, 3, vec![Run::Chunks { first: 0, count: 1 }]);
    let mut bytes = vec![];
    segment.encode(&mut bytes);
    // Offset, stored and plain length take a byte each.
    for (position, name) in [(3, "coder"), (4, "parts of a base")] {
        let mut newer = bytes.clone();
        newer[position] = 2;
        let refused = Segment::decode(&mut Cursor::new(&newer), &mut 1);
        assert!(matches!(refused, Err(FormatError::Unsupported { .. })), "{name}: {refused:?}");
    }
}

#[test]
fn newer_versions_are_named() {
    let (id, object) = sample();
    let mut newer = object.encode().unwrap();
    newer[7] += 1;
    let refused = BuildObject::decode(id, &newer);
    assert!(matches!(refused, Err(FormatError::UnknownVersion { actual: 2, expected: 1, .. })));
    let mut pack = header(id, 0);
    pack[7] += 1;
    let refused = PackTable::decode(&pack);
    assert!(matches!(refused, Err(FormatError::UnknownVersion { actual: 2, expected: 1, .. })));
}

#[test]
fn a_payload_that_lies_about_its_length_is_refused() {
    let (coder, stored) = compress(vec![0; 1 << 20]);
    assert_eq!(coder, Coder::Zstd);
    assert!(expand(coder, &stored, 1 << 20).is_ok());
    for plain in [0, 1, (1 << 20) - 1, (1 << 20) + 1, SEGMENT_BYTES_MAX + 1] {
        assert!(expand(coder, &stored, plain).is_err(), "{plain}");
    }
    assert!(expand(Coder::Raw, b"four", 3).is_err());
}

#[test]
fn bytes_that_do_not_compress_are_kept_as_they_are() {
    let noise: Vec<u8> =
        (0..100_u32).flat_map(|n| *Digest::of(&n.to_le_bytes()).as_bytes()).collect();
    assert_eq!(compress(noise.clone()), (Coder::Raw, noise));
}

#[test]
fn keys_can_be_read_back() {
    let (id, _) = sample();
    let key = keys::published("web-1", 1_700_000_000_000, id);
    assert_eq!(keys::parse_published(&key), Some(("web-1", 1_700_000_000_000, id)));
    assert!(keys::published("a", 9, id) < keys::published("a", 10, id));
    assert_eq!(keys::digest_of(&keys::build(id)), Some(*id.digest()));
    for app in ["", ".", "..", "a/b", "a b", "\u{e4}"] {
        assert!(!keys::is_app(app), "{app:?}");
    }
}

/// Segments that lie one after the other, as a pack has them, and the payloads' length.
fn any_segments() -> impl Strategy<Value = Vec<Segment>> {
    let one =
        (1..5000_u32, 1..100_u32, any::<bool>(), prop::collection::vec((0..9_u32, 1..9_u32), 1..5));
    prop::collection::vec(one, 0..20).prop_map(|list| {
        let mut offset = START;
        let segments = list.into_iter().map(|(plain, less, is_raw, runs)| {
            let runs = runs.into_iter().map(|(first, count)| Run::Chunks { first, count });
            let is_raw = is_raw || plain <= less;
            let segment = Segment {
                offset,
                stored: if is_raw { plain } else { plain - less },
                plain,
                coder: if is_raw { Coder::Raw } else { Coder::Zstd },
                runs: runs.collect(),
            };
            offset = segment.end();
            segment
        });
        segments.collect()
    })
}

fn pack_of(segments: &[Segment]) -> Vec<u8> {
    let mut pack = header(BuildId::of_manifest(b"m"), 3);
    let end = segments.last().map_or(START, Segment::end);
    pack.resize(usize::try_from(end).unwrap(), 0x5a);
    pack.extend(footer(segments).unwrap());
    pack
}

proptest! {
    #[test]
    fn numbers_round_trip(value in any::<u64>(), rest in prop::collection::vec(any::<u8>(), 0..3)) {
        let mut bytes = vec![];
        put_number(&mut bytes, value);
        bytes.extend(&rest);
        let mut cursor = Cursor::new(&bytes);
        prop_assert_eq!(cursor.number(), Some(value));
        prop_assert_eq!(cursor.rest(), rest.as_slice());
    }

    #[test]
    fn packs_round_trip(segments in any_segments()) {
        let pack = pack_of(&segments);
        let table = PackTable::decode(&pack).unwrap();
        prop_assert_eq!(table.build, BuildId::of_manifest(b"m"));
        prop_assert_eq!(&table.segments, &segments);
        let end = segments.last().map_or(START, Segment::end);
        prop_assert_eq!(decode_footer(&footer(&segments).unwrap(), end).unwrap(), segments);
    }

    /// Goal: a mutated pack is refused, or is another pack; never a panic, never out of bounds.
    #[test]
    fn mutated_packs_are_refused_or_sound(
        segments in any_segments(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut pack = pack_of(&segments);
        for (position, byte) in changes {
            let position = position.index(pack.len());
            pack[position] = byte;
        }
        pack.truncate(cut.index(pack.len()) + 1);
        if let Ok(table) = PackTable::decode(&pack) {
            for segment in table.segments {
                prop_assert!(segment.end() <= pack.len() as u64);
                prop_assert!(segment.plain <= SEGMENT_BYTES_MAX);
            }
        }
    }

    /// Goal: whatever lies in a build's index, decoding ends with a sound index or an error.
    #[test]
    fn any_index_is_refused_or_sound(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let manifest = manifest(&[b"one", b"three"]);
        let packs = [PackRef { digest: Digest::of(b"p"), bytes: 100 }];
        if let Ok(index) = Index::decode(&manifest, &packs, &bytes) {
            for chunk in manifest.layout().indices() {
                let place = index.place(chunk);
                let (part, segment) = index.segment(place.segment);
                prop_assert!(segment.end() <= part.pack.bytes);
                prop_assert!(place.offset + manifest.layout().size_of(chunk) <= segment.plain);
            }
        }
    }

    #[test]
    fn any_beginning_of_a_build_is_refused_or_asks_for_more(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let bytes = [b"shoalbd\x01".as_slice(), &bytes].concat();
        if let Ok(Beginning::Needs(more)) = Head::decode(&bytes) {
            prop_assert!(more > bytes.len());
            prop_assert!(more as u64 <= build::BUILD_BYTES_MAX);
        }
    }

    #[test]
    fn any_payload_expands_to_its_length_or_not_at_all(
        stored in prop::collection::vec(any::<u8>(), 0..200),
        plain in 0..10_000_u32,
    ) {
        if let Ok(bytes) = expand(Coder::Zstd, &stored, plain) {
            prop_assert_eq!(bytes.len(), plain as usize);
        }
    }

    #[test]
    fn segments_round_trip_through_the_codec(
        plain in prop::collection::vec(0..4_u8, 1..5000),
    ) {
        let (coder, stored) = compress(plain.clone());
        prop_assert_eq!(expand(coder, &stored, u32::try_from(plain.len()).unwrap()), Ok(plain));
    }
}

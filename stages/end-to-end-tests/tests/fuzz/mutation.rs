//! Inputs that are almost right: seeds with some changes, now and then mixed, or bytes of no seed at all.

use std::{fs, path::Path};

use proptest::{collection::vec, prelude::*, sample::Index};

/// Most changes of one input.
const CHANGES_MAX: usize = 8;
/// Bytes that mean something in one of the formats.
const TELLING: [u8; 16] = *b"\0\n\r\"{}[]:,.\x80\xc0\xc1\xdf\xff";

/// A change at a place.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    CutOff(Index),
    GoOnWith(Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let byte = prop_oneof![any::<u8>(), proptest::sample::select(TELLING.as_slice())];
    prop_oneof![
        (any::<Index>(), byte).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (any::<Index>(), vec(any::<u8>(), 1..6)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (any::<Index>(), 1..20_usize).prop_map(|(at, count)| Change::Remove(at, count)),
        (any::<Index>(), 1..10_usize, 1..200_usize)
            .prop_map(|(at, count, times)| Change::Repeat(at, count, times)),
        any::<Index>().prop_map(Change::CutOff),
        (any::<Index>(), any::<Index>()).prop_map(|(at, other)| Change::GoOnWith(at, other)),
    ]
}

fn apply(mut bytes: Vec<u8>, change: &Change, seeds: &[Vec<u8>]) -> Vec<u8> {
    let place = |at: &Index| at.index(bytes.len() + 1);
    match change {
        Change::Set(at, byte) => {
            let at = place(at);
            if let Some(found) = bytes.get_mut(at) {
                *found = *byte;
            }
        }
        Change::Flip(at, bit) => {
            let at = place(at);
            if let Some(found) = bytes.get_mut(at) {
                *found ^= 1 << bit;
            }
        }
        Change::Insert(at, more) => {
            let at = place(at);
            bytes.splice(at..at, more.iter().copied());
        }
        Change::Remove(at, count) => {
            let at = place(at);
            bytes.drain(at..bytes.len().min(at + count));
        }
        Change::Repeat(at, count, times) => {
            let at = place(at);
            let part = bytes.get(at..bytes.len().min(at + count)).unwrap_or_default().repeat(*times);
            bytes.splice(at..at, part);
        }
        Change::CutOff(at) => {
            let at = place(at);
            bytes.truncate(at);
        }
        Change::GoOnWith(at, other) => {
            let at = place(at);
            bytes.truncate(at);
            bytes.extend_from_slice(other.get::<Vec<u8>>(seeds));
        }
    }
    bytes
}

/// One of the seeds with some changes, or any bytes.
pub(crate) fn mutated(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changed = (any::<Index>(), vec(change(), 0..CHANGES_MAX)).prop_map(move |(seed, changes)| {
        changes.iter().fold(seed.get(&seeds).clone(), |bytes, change| apply(bytes, change, &seeds))
    });
    prop_oneof![9 => changed, 1 => vec(any::<u8>(), 0..200)]
}

/// [`mutated`], from the files of a folder of `fuzz/`.
pub(crate) fn mutated_corpus(kind: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    mutated(paths.iter().map(|path| fs::read(path).unwrap()).collect())
}

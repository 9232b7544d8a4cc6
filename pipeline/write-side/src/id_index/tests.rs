//! The index over real files, whole and damaged ones.

use millstream_contract::{
    outcome::{Generations, RecordKind},
    testing::dice::Dice,
};

use super::*;

const CACHE: usize = 1024 * 1024;

fn outcome(position: u64, id: &str, outcome: Outcome) -> CommandOutcome {
    CommandOutcome { position, id: Some(id.into()), address: "a.b.c.d".into(), outcome, content: None }
}

/// A record of these outcomes, called after the first one's position.
fn record(outcomes: &[CommandOutcome]) -> OutcomeRecord {
    let through = outcomes.last().map_or(0, |last| last.position);
    OutcomeRecord {
        record_id: format!("record-{}", outcomes.first().map_or(0, |first| first.position)).into(),
        kind: RecordKind::Outcomes,
        handler: "run".into(),
        after: 0,
        through,
        events_through: 0,
        outcomes: outcomes.to_vec(),
        generations: Generations { commands: "c".into(), events: "e".into() },
    }
}

fn accepted(position: u64, id: &str) -> CommandOutcome {
    outcome(position, id, Outcome::Accepted { sequence: position, version: 1, events: 1 })
}

fn open(path: &Path) -> IdIndex {
    IdIndex::open(path, CACHE, Count::default()).unwrap()
}

fn get(index: &IdIndex, id: &str) -> Option<IdEntry> {
    index.first_uses(&[id.into()]).unwrap().pop().unwrap()
}

#[test]
fn recorded_ids_survive_reopening_and_unrecorded_ones_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ids.redb");
    let index = open(&path);
    assert_eq!(index.follow("g", 9, None).unwrap(), 0);
    let content = Some(ContentMark::new("a.b.c.d", b"{}"));
    index.note(&record(&[CommandOutcome { content, ..accepted(1, "one") }]), 5);
    index.flush().unwrap();
    index.settle(&[accepted(2, "two")]);
    assert_eq!(get(&index, "two").unwrap().position, 2);
    drop(index);

    let index = open(&path);
    assert_eq!(index.follow("g", 9, None).unwrap(), 5);
    let one = get(&index, "one").unwrap();
    assert_eq!((one.position, one.content), (1, content));
    assert_eq!(get(&index, "two"), None);
}

#[test]
fn an_index_of_other_outcomes_is_emptied() {
    let index = IdIndex::in_memory().unwrap();
    index.follow("g", 0, None).unwrap();
    index.note(&record(&[accepted(1, "one")]), 5);
    index.flush().unwrap();
    assert_eq!(index.follow("h", 9, None).unwrap(), 0);
    assert_eq!(get(&index, "one"), None);
}

#[test]
fn lost_tail_of_outcomes_empties_the_index() {
    let index = IdIndex::in_memory().unwrap();
    index.follow("g", 0, None).unwrap();
    index.note(&record(&[accepted(1, "one")]), 5);
    assert_eq!(index.follow("g", 4, None).unwrap(), 0);
    assert_eq!(get(&index, "one"), None);
}

#[test]
fn lost_tail_that_has_grown_again_empties_the_index_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ids.redb");
    let index = open(&path);
    index.follow("g", 0, None).unwrap();
    index.note(&record(&[accepted(1, "one")]), 5);
    index.flush().unwrap();
    assert_eq!(index.follow("g", 9, Some("record-1")).unwrap(), 5, "it is the record that was noted");
    assert_eq!(index.follow("g", 9, None).unwrap(), 5, "the record was purged");
    assert_eq!(index.follow("g", 9, Some("another")).unwrap(), 0);
    assert_eq!(get(&index, "one"), None);
    drop(index);
    let index = open(&path);
    assert_eq!(index.follow("g", 9, None).unwrap(), 0, "what was emptied claims to know nothing");
}

/// Turns end while a flush or a purge is under way on another thread. The next turn may find that the server has lost records.
#[test]
fn flush_and_purge_that_outlive_their_turn_change_nothing_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ids.redb");
    let index = open(&path);
    index.follow("g", 0, None).unwrap();
    index.note(&record(&[accepted(1, "lost")]), 4);
    index.note(&record(&[accepted(2, "kept")]), 5);
    let (late, file, epoch) = (index.unwritten().unwrap(), index.file().clone(), index.memory().epoch);
    assert_eq!(index.follow("g", 3, None).unwrap(), 0, "the server has lost its tail");
    index.note(&record(&[accepted(2, "kept")]), 5);
    index.write(&late).unwrap();
    assert_eq!(index.forget_in_file(&file, 6, epoch).unwrap(), 0);
    assert_eq!(get(&index, "lost"), None);
    index.flush().unwrap();
    assert_eq!(get(&index, "kept").unwrap().position, 2, "the late flush did not take it away");
    assert_eq!(index.forget_in_file(&file, 6, epoch).unwrap(), 0);
    assert!(get(&index, "kept").is_some());
    assert_eq!(index.forget_before(6).unwrap(), 1, "the late purge has not noted that it went so far");
    drop((index, late, file));
    assert_eq!(get(&open(&path), "lost"), None);
}

#[test]
fn dead_letters_and_repeats_leave_the_id_free_or_with_its_first_owner() {
    let index = IdIndex::in_memory().unwrap();
    let letter = Outcome::DeadLettered { code: "c".into(), message: "m".into() };
    index.note(&record(&[outcome(1, "one", letter)]), 1);
    assert_eq!(get(&index, "one"), None);
    let first = Outcome::Accepted { sequence: 1, version: 1, events: 1 };
    index.note(&record(&[accepted(2, "two")]), 2);
    index.note(
        &record(&[outcome(
            3,
            "two",
            Outcome::Duplicate { of: 2, first: Box::new(first), other_content: false },
        )]),
        3,
    );
    assert_eq!(get(&index, "two").unwrap().position, 2);
}

#[test]
fn ids_of_purged_records_are_forgotten() {
    let index = IdIndex::in_memory().unwrap();
    index.note(&record(&[accepted(1, "one")]), 1);
    index.note(&record(&[accepted(2, "two")]), 2);
    index.flush().unwrap();
    index.note(&record(&[accepted(3, "three")]), 1);
    assert_eq!(index.forget_before(2).unwrap(), 2);
    assert_eq!(index.forget_before(2).unwrap(), 0);
    assert_eq!(get(&index, "one"), None);
    assert_eq!(get(&index, "three"), None);
    assert!(get(&index, "two").is_some());
}

#[test]
fn more_ids_than_one_transaction_forgets_are_forgotten() {
    let index = IdIndex::in_memory().unwrap();
    let count = 10_000;
    for position in 1..=count {
        index.note(&record(&[accepted(position, &position.to_string())]), position);
    }
    index.flush().unwrap();
    assert_eq!(index.forget_before(count).unwrap(), count - 1);
    assert!(get(&index, &count.to_string()).is_some());
    assert_eq!(get(&index, "1"), None);
}

fn names(count: u64) -> Vec<Arc<str>> {
    (1..=count).map(|number| format!("id-{number}").into()).collect()
}

/// A file with `count` ids, ten in each record.
fn filled(path: &Path, count: u64) {
    let index = open(path);
    index.follow("g", count, None).unwrap();
    let positions: Vec<u64> = (1..=count).collect();
    for (positions, sequence) in positions.chunks(10).zip(1..) {
        let outcomes: Vec<_> = positions.iter().map(|it| accepted(*it, &format!("id-{it}"))).collect();
        index.note(&record(&outcomes), sequence);
    }
    index.flush().unwrap();
}

#[test]
fn many_ids_are_found_at_once_in_the_order_of_the_question() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ids.redb");
    filled(&path, 1000);
    let index = open(&path);
    index.settle(&[accepted(1001, "settled")]);
    let ids: Vec<Arc<str>> = ["id-7", "new", "settled", "id-1000", "id-1001"].map(Arc::from).to_vec();
    let found = index.first_uses(&ids).unwrap();
    let positions: Vec<_> = found.iter().map(|entry| entry.as_ref().map(|it| it.position)).collect();
    assert_eq!(positions, [Some(7), None, Some(1001), Some(1000), None]);
}

/// An id whose bit flipped in the file was taken for a new one, and its command took effect twice.
#[test]
fn bit_that_flips_anywhere_never_makes_a_used_id_look_new() {
    const IDS: u64 = 1500;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ids.redb");
    filled(&path, IDS);
    let whole = std::fs::read(&path).unwrap();
    let right = open(&path).first_uses(&names(IDS)).unwrap();
    assert!(right.iter().all(Option::is_some));
    let (mut damaged, mut dice) = (0, Dice::new(7));
    for _ in 0..120 {
        let place = usize::try_from(dice.below(whole.len() as u64)).unwrap();
        let bit = dice.below(8);
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << bit;
        std::fs::write(&path, &bytes).unwrap();
        let counted = Count::default();
        let index = IdIndex::open(&path, CACHE, counted.clone()).unwrap();
        if index.follow("g", IDS, None).unwrap() > 0 {
            match index.first_uses(&names(IDS)) {
                Ok(found) => assert!(found == right, "bit {bit} of byte {place}"),
                Err(IdIndexError::BegunAnew) => {
                    assert!(
                        index.first_uses(&names(1)).is_err(),
                        "before the ids are learnt, nothing is known"
                    );
                    assert_eq!(index.follow("g", IDS, None).unwrap(), 0);
                    assert_eq!(get(&index, "id-1"), None);
                }
                Err(error) => panic!("bit {bit} of byte {place}: {error}"),
            }
        }
        damaged += counted.get();
    }
    assert!(damaged > 5, "only {damaged} of the flipped bits were found");
}

#[test]
fn damaged_file_gives_way_to_an_empty_one_that_has_to_learn_all_ids_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ids.redb");
    filled(&path, 100);
    let index = open(&path);
    assert_eq!(index.follow("g", 100, None).unwrap(), 10);
    let hash = id_hash("id-50");
    let bytes = std::fs::read(&path).unwrap();
    let mut damaged = bytes.clone();
    for place in (0..bytes.len() - hash.len()).filter(|place| bytes[*place..].starts_with(&hash)) {
        damaged[place + 3] ^= 1;
    }
    drop(index);
    std::fs::write(&path, damaged).unwrap();

    let index = open(&path);
    assert_eq!(index.follow("g", 100, None).unwrap(), 10, "nothing shows before the id is sought");
    let error = index.first_uses(&names(100)).unwrap_err();
    assert!(matches!(error, IdIndexError::BegunAnew), "{error}");
    index.note(&record(&[accepted(101, "id-101")]), 11);
    assert!(index.flush().is_err(), "what is noted now would hide that the others are missing");
    assert_eq!(index.follow("g", 100, None).unwrap(), 0);
    index.note(&record(&[accepted(50, "id-50")]), 5);
    index.flush().unwrap();
    assert_eq!(get(&index, "id-50").unwrap().position, 50);
    let aside = std::fs::read_dir(folder.path()).unwrap();
    let aside = aside.filter(|it| it.as_ref().unwrap().file_name().to_string_lossy().contains("set-aside"));
    assert_eq!(aside.count(), 1);
}

#[test]
fn file_of_an_earlier_release_is_learnt_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ids.redb");
    let database = redb::Database::create(&path).unwrap();
    let write = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, &str>::new("meta");
    write.open_table(meta).unwrap().insert("through", "7").unwrap();
    write.commit().unwrap();
    drop(database);
    let index = open(&path);
    assert_eq!(index.follow("g", 9, None).unwrap(), 0);
}

//! From the rows of a file to what a map makes commands of: cells that are filled down, rows that are skipped on purpose, rows that are a
//! group.

use std::{cell::RefCell, collections::VecDeque, path::PathBuf, sync::Arc};

use super::{
    condition::{Condition, ConditionError},
    identity::{Digest, IdentityError, are_foreign, column, digest},
    input::{InputError, SourceRow},
    key::Slugs,
    node::{At, Node, Placed},
    refusal::RowRefusal,
    text::{Columns, Row, RowError, Text},
};

/// Most rows of a group. No command holds more, and a column with the same value in all rows would take the whole file into memory.
pub(super) const GROUP_MAX: usize = 10_000;

/// What a map says of rows and groups, if it says anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Units {
    fill: Vec<usize>,
    skip: Vec<Condition>,
    group: Vec<Text>,
    /// Whether a command is made of all rows of a group, so that none of them may be missing.
    pub(super) stand_together: bool,
}

/// Something under `fill`, `skip` or `group` that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnitsError {
    #[error("{found} is no list of columns; write {name} = [\"{{column}}\", …]")]
    List { name: &'static str, found: String },
    #[error("{text} is not one column as it stands in the file; write \"{{column}}\"")]
    NotBare { text: String },
    #[error("{found} is no list of conditions; write [[skip]] above each, or skip = [{{ … }}, …]")]
    Skip { found: String },
    #[error(
        "each is for the rows of a group, and the map has no group; write group = [\"{{column}}\", …] for the columns whose values they share, \
         or leave each out"
    )]
    NoGroup,
    #[error(transparent)]
    Column(#[from] IdentityError),
    #[error(transparent)]
    Condition(#[from] ConditionError),
}

/// One row, or the rows of a group.
#[derive(Debug)]
pub(crate) struct Unit {
    /// At least one.
    pub(crate) rows: Vec<SourceRow>,
    /// What tells the group from others; none of a row by itself.
    pub(super) group: Option<Digest>,
    pub(super) fate: Fate,
}

/// What is known of a unit before the map looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Mapped,
    /// On purpose.
    Skipped,
    Refused(RowRefusal),
}

impl Unit {
    /// A row by itself.
    pub(super) fn single(row: SourceRow, fate: Fate) -> Self {
        Self { rows: vec![row], group: None, fate }
    }

    /// Whether it is left out on purpose.
    pub(crate) fn is_skipped(&self) -> bool {
        self.fate == Fate::Skipped
    }
}

impl Units {
    /// Reads what a map says.
    pub(super) fn read(
        [fill, skip, group]: [Option<&Placed>; 3],
        columns: &Columns,
    ) -> Result<Self, At<UnitsError>> {
        let bare = |(item, text): (&Placed, Text)| {
            let not_bare = || At::new(item, UnitsError::NotBare { text: item.get_ref().to_string() });
            text.bare_column().ok_or_else(not_bare)
        };
        let fill = list("fill", fill, columns)?.into_iter().map(bare).collect::<Result<_, _>>()?;
        let group: Vec<Text> = list("group", group, columns)?.into_iter().map(|(_, text)| text).collect();
        let skip = match skip.map(|value| (value, value.get_ref())) {
            None => Vec::new(),
            Some((_, Node::List(items))) => {
                let read = |item| Condition::parse(item, columns);
                let all: Result<_, At<ConditionError>> = items.iter().map(read).collect();
                all.map_err(|error| At { span: error.span, what: error.what.into() })?
            }
            Some((value, found)) => {
                return Err(At::new(value, UnitsError::Skip { found: found.to_string() }));
            }
        };
        Ok(Self { fill, skip, group, stand_together: true })
    }

    /// Whether rows are grouped.
    pub(super) fn are_groups(&self) -> bool {
        !self.group.is_empty()
    }

    /// Whether what tells a group from others holds letters that depend on how the file is read.
    pub(super) fn has_foreign_letters(&self, row: &Row<'_>) -> bool {
        are_foreign(&self.group, row)
    }

    /// Makes units of the rows of a file.
    pub(super) fn of(
        units: Arc<Self>,
        path: PathBuf,
        mut rows: impl Iterator<Item = Result<SourceRow, InputError>>,
    ) -> impl Iterator<Item = Result<Unit, InputError>> {
        let mut gatherer = Gatherer {
            units,
            path,
            slugs: RefCell::default(),
            above: None,
            group: None,
            ready: VecDeque::new(),
        };
        std::iter::from_fn(move || {
            loop {
                if let Some(unit) = gatherer.ready.pop_front() {
                    return Some(Ok(unit));
                }
                match rows.next() {
                    Some(row) => {
                        if let Err(error) = row.and_then(|row| gatherer.take(row)) {
                            return Some(Err(error));
                        }
                    }
                    None => {
                        let group = gatherer.group.take();
                        return group.map(|group| Ok(group.into_unit(gatherer.units.stand_together)));
                    }
                }
            }
        })
    }
}

/// The columns that a key of the map lists.
fn list<'v>(
    name: &'static str,
    value: Option<&'v Placed>,
    columns: &Columns,
) -> Result<Vec<(&'v Placed, Text)>, At<UnitsError>> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let items = match value.get_ref() {
        Node::List(items) if !items.is_empty() => items,
        found => return Err(At::new(value, UnitsError::List { name, found: found.to_string() })),
    };
    let read = |item: &'v Placed| match column(item, columns) {
        Ok(text) => Ok((item, text)),
        Err(error) => Err(At { span: error.span, what: error.what.into() }),
    };
    items.iter().map(read).collect()
}

struct Gatherer {
    units: Arc<Units>,
    path: PathBuf,
    slugs: RefCell<Slugs>,
    /// The row before, with what was filled in.
    above: Option<SourceRow>,
    group: Option<Group>,
    /// Units that are complete.
    ready: VecDeque<Unit>,
}

/// Rows that follow each other.
struct Group {
    key: Vec<String>,
    rows: Vec<SourceRow>,
    /// Why none of them is sent: nobody knows whether one of them belongs to it.
    refusal: Option<RowRefusal>,
}

impl Group {
    fn into_unit(self, stand_together: bool) -> Unit {
        let Self { key, rows, refusal } = self;
        let refusal = refusal.or_else(|| incomplete(&rows).filter(|_| stand_together));
        let group = Some(digest("group", key.iter().map(String::as_str)));
        Unit { rows, group, fate: refusal.map_or(Fate::Mapped, Fate::Refused) }
    }
}

/// Why a group of a file of rejects is none: what was left out would be lost, since the rest makes the group known.
fn incomplete(rows: &[SourceRow]) -> Option<RowRefusal> {
    let had = rows.iter().filter_map(|row| row.of_group).max().filter(|had| *had != rows.len())?;
    let reason = format!(
        "the group had {had} rows when it was refused, and {} of them stand here; import all of them together, or make import_identity \
         empty in each if the group is to be what stands here",
        rows.len()
    );
    Some(RowRefusal::new("group-incomplete", reason))
}

impl Gatherer {
    fn take(&mut self, row: SourceRow) -> Result<(), InputError> {
        let mut row = row;
        self.fill(&mut row);
        let refusal = match self.is_skipped(&row) {
            Ok(true) => {
                self.ready.push_back(Unit::single(row, Fate::Skipped));
                return Ok(());
            }
            Ok(false) => None,
            Err(error) => Some(RowRefusal::from(error)),
        };
        if !self.units.are_groups() {
            self.ready.push_back(Unit::single(row, refusal.map_or(Fate::Mapped, Fate::Refused)));
            return Ok(());
        }
        let key = self.key(&row).map_err(|error| InputError::NoGroup {
            path: self.path.clone(),
            line: row.line,
            reason: error.to_string(),
        })?;
        match &mut self.group {
            Some(group) if group.key == key => {
                if group.rows.len() == GROUP_MAX {
                    let line = group.rows.first().map_or(0, |first| first.line);
                    return Err(InputError::GroupTooLong { path: self.path.clone(), line });
                }
                group.rows.push(row);
                group.refusal = group.refusal.take().or(refusal);
            }
            group => {
                let before = group.replace(Group { key, rows: vec![row], refusal });
                let stand_together = self.units.stand_together;
                self.ready.extend(before.map(|group| group.into_unit(stand_together)));
            }
        }
        Ok(())
    }

    /// Fills empty cells with what stands above them; in a group, never with what another group says.
    fn fill(&mut self, row: &mut SourceRow) {
        let Units { fill, group, .. } = &*self.units;
        if fill.is_empty() {
            return;
        }
        if let Some(above) = &self.above {
            let is_empty = |column: usize| row.record.get(column).unwrap_or_default().trim().is_empty();
            let text_of = |text: &Text, row: &SourceRow| {
                text.render(&Row::bare(std::slice::from_ref(row), &self.slugs)).ok()
            };
            let is_same = |text: &Text| {
                let is_filled = |column: usize| fill.contains(&column) && is_empty(column);
                text.column_index().is_some_and(is_filled) || text_of(text, row) == text_of(text, above)
            };
            let is_same_group = group.iter().all(is_same);
            let tells_group = |column: usize| group.iter().any(|text| text.column_index() == Some(column));
            let mut fields: Vec<&str> = row.record.iter().collect();
            for column in fill {
                let is_told = is_same_group || tells_group(*column);
                if let Some(field) =
                    fields.get_mut(*column).filter(|field| field.trim().is_empty() && is_told)
                {
                    *field = above.record.get(*column).unwrap_or_default();
                }
            }
            row.record = fields.into_iter().collect();
        }
        self.above = Some(row.clone());
    }

    fn is_skipped(&self, row: &SourceRow) -> Result<bool, RowError> {
        let rows = std::slice::from_ref(row);
        let row = Row::bare(rows, &self.slugs);
        for condition in &self.units.skip {
            if condition.holds(&row)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the group of a row is told by.
    fn key(&self, row: &SourceRow) -> Result<Vec<String>, RowError> {
        if let Some(identity) = &row.identity {
            return Ok(vec![identity.clone()]);
        }
        let row = Row::bare(std::slice::from_ref(row), &self.slugs);
        self.units.group.iter().map(|text| text.render(&row)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::text::tests::source_row, *};

    fn units(map: &str, rows: &[[&str; 3]]) -> Vec<(Vec<String>, Fate)> {
        let columns = Columns::new(&csv::StringRecord::from(vec!["order", "mail", "item"]));
        let table: Placed = toml::from_str(map).unwrap();
        let of = |name| table.get_ref().get(name);
        let units = Units::read([of("fill"), of("skip"), of("group")], &columns).unwrap();
        let rows = (2..).zip(rows).map(|(line, fields)| Ok(source_row(line, fields)));
        let all = Units::of(Arc::new(units), PathBuf::from("s.csv"), rows).map(|unit| {
            let unit = unit.unwrap();
            let fields = |row: &SourceRow| row.record.iter().collect::<Vec<_>>().join(",");
            (unit.rows.iter().map(fields).collect(), unit.fate)
        });
        all.collect()
    }

    fn mapped(rows: &[&str]) -> (Vec<String>, Fate) {
        (rows.iter().map(|row| (*row).to_owned()).collect(), Fate::Mapped)
    }

    #[test]
    fn rows_that_follow_each_other_are_a_group_and_are_filled_within_it() {
        let map = "group = [\"{order}\"]\nfill = [\"{order}\", \"{mail}\"]\nskip = [{ value = \"{item}\", is = \"Total\" }]";
        let rows = [
            ["1", "a@x", "tea"],
            ["", "", "pot"],
            ["1", "", "Total"],
            ["1", "b@x", "cup"],
            ["2", "", "tea"],
            ["", "", "rum"],
        ];
        assert_eq!(
            units(map, &rows),
            [
                (vec!["1,a@x,Total".to_owned()], Fate::Skipped),
                mapped(&["1,a@x,tea", "1,a@x,pot", "1,b@x,cup"]),
                mapped(&["2,,tea", "2,,rum"]),
            ]
        );
        let alone = "fill = [\"{mail}\"]";
        assert_eq!(units(alone, &rows)[4], mapped(&["2,b@x,tea"]));
    }

    #[test]
    fn what_is_no_list_of_columns_is_refused() {
        let columns = Columns::new(&csv::StringRecord::from(vec!["a"]));
        for (map, said) in [
            ("fill = \"{a}\"", "\"{a}\" is no list of columns; write fill = [\"{column}\", …]"),
            (
                "fill = [\"{a|date:%d.%m.%Y}\"]",
                "\"{a|date:%d.%m.%Y}\" is not one column as it stands in the file",
            ),
            ("group = []", "an empty list is no list of columns; write group = "),
            ("group = [\"{a|pad:3}\"]", "\"{a|pad:3}\": the filter makes one text of different ones"),
            ("group = [\"{b}\"]", "\"{b}\": there is no column \"b\""),
            ("group = [\"{a|slug}\"]", "\"{a|slug}\": the filter makes one text of different ones"),
            ("skip = { value = \"{a}\" }", "a table is no list of conditions; write [[skip]]"),
            ("skip = [7]", "7 is no condition"),
        ] {
            let table: Placed = toml::from_str(map).unwrap();
            let of = |name| table.get_ref().get(name);
            let refused = Units::read([of("fill"), of("skip"), of("group")], &columns).unwrap_err();
            assert!(refused.what.to_string().starts_with(said), "{map}: {refused:?}");
        }
    }

    /// What one customer had said stood in the order of the next.
    #[test]
    fn nothing_is_filled_from_another_group_whatever_the_filters_of_its_columns_are() {
        let map = "group = [\"{order|date:%d.%m.%Y}\"]\nfill = [\"{mail}\"]";
        let rows = [["01.02.2026", "a@x", "tea"], ["1.2.2026", "", "pot"], ["02.02.2026", "", "cup"]];
        let expected = [mapped(&["01.02.2026,a@x,tea", "1.2.2026,a@x,pot"]), mapped(&["02.02.2026,,cup"])];
        assert_eq!(units(map, &rows), expected);
    }

    proptest! {
        /// No row is lost, and rows of a group are those that follow each other in the file.
        #[test]
        fn each_row_is_in_one_unit(table in proptest::collection::vec(("[12]", "[ab]?", "[xT]"), 0..40)) {
            let rows: Vec<[&str; 3]> =
                table.iter().map(|(order, mail, item)| [order.as_str(), mail.as_str(), item.as_str()]).collect();
            let map = "group = [\"{order}\"]\nskip = [{ value = \"{item}\", is = \"T\" }]";
            let all = units(map, &rows);
            let mut left: Vec<String> = rows.iter().map(|row| row.join(",")).collect();
            let kept: Vec<String> = left.iter().filter(|row| !row.ends_with('T')).cloned().collect();
            let mapped = all.iter().filter(|(_, fate)| *fate != Fate::Skipped);
            let made: Vec<String> = mapped.flat_map(|(rows, _)| rows.clone()).collect();
            prop_assert_eq!(made, kept);
            for row in all.iter().flat_map(|(rows, _)| rows) {
                let place = left.iter().position(|one| one == row);
                prop_assert!(place.is_some());
                left.remove(place.unwrap());
            }
            prop_assert!(left.is_empty());
            let orders = |rows: &[String]| rows.iter().map(|row| row.split(',').next().unwrap().to_owned()).collect::<Vec<_>>();
            for (rows, _) in &all {
                let orders = orders(rows);
                prop_assert!(orders.windows(2).all(|two| two[0] == two[1]), "{:?}", rows);
            }
        }
    }
}

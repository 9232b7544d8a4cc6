//! From the rows of a file to what a map makes commands of: cells that are filled down, rows that are skipped on purpose, rows that are a
//! group.

use std::{cell::RefCell, collections::VecDeque, sync::Arc};

use super::{
    condition::{Condition, ConditionError},
    identity::{IdentityError, column},
    input::{InputError, SourceRow},
    mapping::RowRefusal,
    node::{At, Node, Placed},
    text::{Columns, Row, RowError, Text},
};

/// Most rows of a group: more fit into no command, and a column that does not tell groups apart would take the whole file into memory.
const GROUP_MAX: usize = 10_000;

/// What a map says of rows and groups, if it says anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Units {
    fill: Vec<usize>,
    skip: Vec<Condition>,
    group: Vec<Text>,
    /// The columns of the file that groups are told by, as far as they stand there as they are.
    group_columns: Vec<usize>,
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
        let group_columns = group.iter().filter_map(Text::bare_column).collect();
        Ok(Self { fill, skip, group, group_columns })
    }

    /// Whether rows are grouped.
    pub(super) fn are_groups(&self) -> bool {
        !self.group.is_empty()
    }

    /// Makes units of the rows of a file.
    pub(super) fn of(
        units: Arc<Self>,
        file: String,
        mut rows: impl Iterator<Item = Result<SourceRow, InputError>>,
    ) -> impl Iterator<Item = Result<Unit, InputError>> {
        let mut gatherer = Gatherer {
            units,
            file,
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
                    Some(Ok(row)) => gatherer.take(row),
                    Some(Err(error)) => return Some(Err(error)),
                    None => {
                        let (_, rows) = gatherer.group.take()?;
                        return Some(Ok(Unit { rows, fate: Fate::Mapped }));
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
    file: String,
    slugs: RefCell<super::text::Slugs>,
    /// The row before, with what was filled in.
    above: Option<csv::StringRecord>,
    group: Option<(Vec<String>, Vec<SourceRow>)>,
    /// Units that are complete.
    ready: VecDeque<Unit>,
}

impl Gatherer {
    fn take(&mut self, row: SourceRow) {
        let mut row = row;
        self.fill(&mut row);
        let rows = [row];
        let known = self.look(&rows);
        let [row] = rows;
        match known {
            Ok(None) => self.ready.push_back(Unit { rows: vec![row], fate: Fate::Skipped }),
            Err(error) => {
                self.close();
                self.ready.push_back(Unit { rows: vec![row], fate: Fate::Refused(error.into()) });
            }
            Ok(Some(_)) if !self.units.are_groups() => {
                self.ready.push_back(Unit { rows: vec![row], fate: Fate::Mapped });
            }
            Ok(Some(key)) => match &mut self.group {
                Some((known, rows)) if *known == key && rows.len() < GROUP_MAX => rows.push(row),
                _ => {
                    self.close();
                    self.group = Some((key, vec![row]));
                }
            },
        }
    }

    fn close(&mut self) {
        if let Some((_, rows)) = self.group.take() {
            self.ready.push_back(Unit { rows, fate: Fate::Mapped });
        }
    }

    /// Fills empty cells with what stands above them; in a group, never with what another group says.
    fn fill(&mut self, row: &mut SourceRow) {
        let Units { fill, group_columns, .. } = &*self.units;
        if fill.is_empty() {
            return;
        }
        if let Some(above) = &self.above {
            let is_empty = |column: usize| row.record.get(column).unwrap_or_default().trim().is_empty();
            let is_same = |column: &usize| {
                is_empty(*column) && fill.contains(column) || row.record.get(*column) == above.get(*column)
            };
            let is_same_group = group_columns.iter().all(is_same);
            let mut fields: Vec<&str> = row.record.iter().collect();
            for column in fill {
                let is_told = is_same_group || group_columns.contains(column);
                if let Some(field) =
                    fields.get_mut(*column).filter(|field| field.trim().is_empty() && is_told)
                {
                    *field = above.get(*column).unwrap_or_default();
                }
            }
            row.record = fields.into_iter().collect();
        }
        self.above = Some(row.record.clone());
    }

    /// What the group of a row is told by; none if it is skipped.
    fn look(&self, rows: &[SourceRow]) -> Result<Option<Vec<String>>, RowError> {
        let row = Row { file: &self.file, ..Row::bare(rows, &self.slugs) };
        for condition in &self.units.skip {
            if condition.holds(&row)? {
                return Ok(None);
            }
        }
        if let Some(identity) =
            rows.first().and_then(|row| row.identity.clone()).filter(|_| self.units.are_groups())
        {
            return Ok(Some(vec![identity]));
        }
        self.units.group.iter().map(|text| text.render(&row)).collect::<Result<_, _>>().map(Some)
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
        let all = Units::of(Arc::new(units), "s.csv".to_owned(), rows).map(|unit| {
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
    fn a_row_of_no_group_is_refused_and_no_group_takes_a_whole_file() {
        let map = "group = [\"{order}\"]";
        let all = units(map, &[["1", "", "tea"], ["", "", "pot"], ["1", "", "cup"]]);
        assert_eq!(all.iter().map(|(rows, _)| rows.len()).collect::<Vec<_>>(), [1, 1, 1]);
        assert!(
            matches!(&all[1].1, Fate::Refused(refusal) if refusal.reason == "column order is empty"),
            "{all:?}"
        );
        let many = vec![["1", "", ""]; GROUP_MAX + 1];
        assert_eq!(units(map, &many).len(), 2);
    }

    #[test]
    fn what_is_no_list_of_columns_is_refused() {
        let columns = Columns::new(&csv::StringRecord::from(vec!["a"]));
        for (map, said) in [
            ("fill = \"{a}\"", "\"{a}\" is no list of columns; write fill = [\"{column}\", …]"),
            ("fill = [\"{a|lower}\"]", "\"{a|lower}\" is not one column as it stands in the file"),
            ("group = []", "an empty list is no list of columns; write group = "),
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

    proptest! {
        /// No row is lost, and rows of a group are those that follow each other in the file.
        #[test]
        fn each_row_is_in_one_unit(table in proptest::collection::vec(("[12]?", "[ab]?", "[xT]"), 0..40)) {
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

//! The queries of a folder: `<folder>/<context>/<name>.sql`. A file that changes is read again. A broken file leaves its query unchanged, and
//! is reported once.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use millstream_contract::{configured_query::QueryDescription, error_text::one_line, subject::check_name};
use millstream_runtime::file_work::read_regular_file_up_to;

use super::{
    header::{Header, HeaderError, Parameter},
    text::{StatementText, TextError},
};

/// The suffix of the files.
const ENDING: &str = "sql";
/// The largest file.
const BYTES_MAX: u64 = 64 * 1024;

/// A query.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// The context under which it is asked.
    pub context: String,
    /// Its name.
    pub name: String,
    /// What its file says about it.
    pub header: Header,
    /// The statement.
    pub statement: StatementText,
}

/// Why a file is not a query.
#[derive(Debug, thiserror::Error)]
pub enum QueryFileError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It is too large.
    #[error("it has more than {BYTES_MAX} bytes")]
    TooLarge,
    /// Its header cannot be understood.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Its statement cannot be understood.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The header does not declare a parameter of the statement.
    #[error("the statement uses :{name}, of which no line `-- parameter: {name} …` tells")]
    Undeclared {
        /// The parameter.
        name: String,
    },
    /// The header declares a parameter that the statement does not use.
    #[error("the parameter {name} is not used")]
    Unused {
        /// The parameter.
        name: String,
    },
    /// A folder or a file has a name that is not allowed in subjects.
    #[error("the names of folder and file are lower-kebab-case, as in retail/top-sellers.sql")]
    Name,
    /// There is no such context.
    #[error("there is no context {context}; there are {known}")]
    Context {
        /// The folder.
        context: String,
        /// The contexts that there are.
        known: String,
    },
}

/// A file that is not a query.
#[derive(Debug, thiserror::Error)]
#[error("{}", .path.display())]
pub struct BrokenFile {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub error: QueryFileError,
}

impl Query {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`QueryFileError`].
    pub fn read(context: &str, name: &str, text: &str, contexts: &[String]) -> Result<Self, QueryFileError> {
        if check_name("context", context).is_err() || check_name("query", name).is_err() {
            return Err(QueryFileError::Name);
        }
        if !contexts.iter().any(|each| each == context) {
            return Err(QueryFileError::Context { context: context.to_owned(), known: contexts.join(", ") });
        }
        if text.len() as u64 > BYTES_MAX {
            return Err(QueryFileError::TooLarge);
        }
        let header = Header::read(text)?;
        let statement = StatementText::of_contexts(text, contexts)?;
        let declared = |name: &str| header.parameters.iter().any(|parameter| parameter.name == name);
        let used = statement.parameters();
        if let Some(name) = used.iter().find(|name| !declared(name)) {
            return Err(QueryFileError::Undeclared { name: (*name).to_owned() });
        }
        if let Some(unused) = header.parameters.iter().find(|each| !used.contains(&each.name.as_str())) {
            return Err(QueryFileError::Unused { name: unused.name.clone() });
        }
        Ok(Self { context: context.to_owned(), name: name.to_owned(), header, statement })
    }

    /// The description of the query, if it may run for `time`.
    pub fn description(&self, time: Duration) -> QueryDescription {
        let Header { title, description, parameters, money, who, rows, .. } = &self.header;
        QueryDescription {
            context: self.context.clone(),
            name: self.name.clone(),
            title: title.clone(),
            description: description.clone(),
            parameters: parameters.iter().map(Parameter::description).collect(),
            money: money.clone(),
            who: who.clone(),
            rows: *rows,
            time_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// What is wrong with its columns: two have one name, or its header names one that does not exist.
    pub(super) fn check_columns(&self, columns: &[String]) -> Result<(), String> {
        check_names(columns)?;
        let all = self.header.money.iter().flat_map(|(amount, currency)| [amount, currency]);
        match all.into_iter().find(|name| !columns.contains(name)) {
            Some(missing) => {
                let known = columns.join(", ");
                Err(format!("the line `-- money: …` names the column {missing}; there are {known}"))
            }
            None => Ok(()),
        }
    }
}

/// # Errors
/// Words, if two columns have one name. An answer would have only one of them.
pub(super) fn check_names(columns: &[String]) -> Result<(), String> {
    let mut known = HashSet::new();
    match columns.iter().find(|name| !known.insert(*name)) {
        Some(name) => Err(format!("two columns are called {name}; give one another name with AS")),
        None => Ok(()),
    }
}

/// What is known about a file.
#[derive(Debug)]
struct Known {
    text: Result<String, String>,
    query: Option<Arc<Query>>,
    /// The text that the database refused, and the reason. A missing table may still be created.
    refused: Option<(Query, String)>,
}

/// The queries of a folder.
#[derive(Debug)]
pub struct Library {
    folder: PathBuf,
    contexts: Vec<String>,
    files: BTreeMap<PathBuf, Known>,
}

impl Library {
    /// The library of a folder that has not been read yet.
    pub fn new(folder: &Path, contexts: Vec<String>) -> Self {
        Self { folder: folder.to_owned(), contexts, files: BTreeMap::new() }
    }

    /// The contexts that may have queries.
    pub fn contexts(&self) -> &[String] {
        &self.contexts
    }

    /// All queries, by context and name.
    pub fn queries(&self) -> BTreeMap<(String, String), Arc<Query>> {
        let queries = self.files.values().filter_map(|known| known.query.clone());
        queries.map(|query| ((query.context.clone(), query.name.clone()), query)).collect()
    }

    /// Reads what has changed since the last call. `check` asks the database about each new query, and again about those that it refused.
    /// Returns the files that are newly broken, or broken in a different way.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn read(
        &mut self,
        mut check: impl FnMut(&Query) -> Result<(), String>,
    ) -> io::Result<Vec<(PathBuf, String)>> {
        let mut broken = Vec::new();
        let paths = files_of(&self.folder)?;
        self.files.retain(|path, _| paths.contains(path));
        for path in paths {
            let text = read_regular_file_up_to(&path, BYTES_MAX).map_err(QueryFileError::from);
            let said = text.as_ref().map(String::clone).map_err(|error| one_line(error));
            let before = self.files.remove(&path);
            let is_same = before.as_ref().is_some_and(|known| known.text == said);
            let (query, refused) = match before {
                Some(Known { query, refused: None, text }) if is_same => {
                    self.files.insert(path, Known { text, query, refused: None });
                    continue;
                }
                Some(Known { query, refused, .. }) => (query, refused),
                None => (None, None),
            };
            let (read, problem_before) = match refused {
                Some((query, problem)) if is_same => (Ok(query), Some(problem)),
                _ => (text.and_then(|text| self.query(&path, &text)), None),
            };
            let known = match read {
                Ok(read) => match check(&read) {
                    Ok(()) => Known { text: said, query: Some(Arc::new(read)), refused: None },
                    Err(problem) => {
                        if problem_before.as_ref() != Some(&problem) {
                            broken.push((path.clone(), problem.clone()));
                        }
                        Known { text: said, query, refused: Some((read, problem)) }
                    }
                },
                Err(error) => {
                    broken.push((path.clone(), one_line(&error)));
                    Known { text: said, query, refused: None }
                }
            };
            self.files.insert(path, known);
        }
        Ok(broken)
    }

    fn query(&self, path: &Path, text: &str) -> Result<Query, QueryFileError> {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let context =
            path.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
        Query::read(context, name, text, &self.contexts)
    }
}

/// The query files below a folder; none if the folder does not exist.
fn files_of(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for context in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        let is_query = |path: &PathBuf| path.extension().is_some_and(|ending| ending == ENDING);
        files.extend(entries(&context)?.into_iter().filter(is_query));
    }
    files.sort();
    Ok(files)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "-- title: Tills\n-- parameter: store text\nSELECT * FROM retail.till WHERE store = :store";

    #[test]
    fn a_broken_file_keeps_the_query_as_it_was_and_is_told_of_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("retail/tills.sql");
        fs::create_dir(path.parent().unwrap()).unwrap();
        let mut library = Library::new(folder.path(), vec!["retail".to_owned()]);
        fs::write(&path, TEXT).unwrap();
        assert!(library.read(|_| Ok(())).unwrap().is_empty());
        let before = library.queries();
        assert_eq!(before.len(), 1);

        fs::write(&path, TEXT.replace(":store", ":shop")).unwrap();
        let broken = library.read(|_| Ok(())).unwrap();
        assert!(broken[0].1.contains("uses :shop"), "{broken:?}");
        assert_eq!(library.queries(), before);
        assert!(library.read(|_| Ok(())).unwrap().is_empty(), "it is told of once");

        fs::write(&path, TEXT.replace("Tills", "All tills")).unwrap();
        let refused = library.read(|_| Err("no such table".to_owned())).unwrap();
        assert_eq!((refused.len(), library.queries() == before), (1, true));
        fs::write(&path, TEXT.replace("Tills", "Every till")).unwrap();
        assert!(library.read(|_| Ok(())).unwrap().is_empty());
        assert_eq!(library.queries().values().next().unwrap().header.title, "Every till");
        fs::remove_file(&path).unwrap();
        assert!(library.read(|_| Ok(())).unwrap().is_empty());
        assert!(library.queries().is_empty());
    }

    #[test]
    fn a_query_that_the_database_refused_is_shown_to_it_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("retail/tills.sql");
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, TEXT).unwrap();
        let mut library = Library::new(folder.path(), vec!["retail".to_owned()]);
        let mut told = |problem: Option<&str>| {
            let broken = library.read(|_| problem.map_or(Ok(()), |problem| Err(problem.to_owned()))).unwrap();
            (broken.into_iter().map(|(_, problem)| problem).collect::<Vec<_>>(), library.queries().len())
        };
        assert_eq!(told(Some("no such table")), (vec!["no such table".to_owned()], 0));
        assert_eq!(told(Some("no such table")), (vec![], 0), "it is told of once");
        assert_eq!(told(Some("no such column")), (vec!["no such column".to_owned()], 0));
        assert_eq!(told(None), (vec![], 1));
        assert_eq!(told(Some("nobody asks")), (vec![], 1), "what was understood is not asked again");
    }

    /// Whatever is no file could give text without end, or none for ever.
    #[test]
    fn only_files_are_read_and_no_more_of_them_than_a_query_may_have() {
        let folder = tempfile::tempdir().unwrap();
        let retail = folder.path().join("retail");
        fs::create_dir(&retail).unwrap();
        let made = std::process::Command::new("mkfifo").arg(retail.join("pipe.sql")).status().unwrap();
        assert!(made.success());
        fs::create_dir(retail.join("folder.sql")).unwrap();
        fs::write(retail.join("large.sql"), "ü".repeat(64 * 1024)).unwrap();
        let mut library = Library::new(folder.path(), vec!["retail".to_owned()]);
        let broken = library.read(|_| Ok(())).unwrap();
        let problems: Vec<&str> = broken.iter().map(|(_, problem)| problem.as_str()).collect();
        assert!(
            problems[0].contains("no regular file") && problems[2].contains("no regular file"),
            "{problems:?}"
        );
        assert!(problems[1].contains("more than"), "{problems:?}");
    }

    #[test]
    fn files_that_are_no_queries_say_what_is_wrong() {
        let read = |context: &str, name: &str, text: &str| {
            Query::read(context, name, text, &["retail".to_owned()]).unwrap_err().to_string()
        };
        assert!(read("shop", "a", TEXT).contains("there is no context shop; there are retail"));
        assert!(read("retail", "A b", TEXT).contains("lower-kebab-case"));
        assert!(
            read("retail", "a", "-- title: A\nSELECT 1; SELECT 2")
                .contains("line 2: a query is one statement")
        );
        assert!(read("retail", "a", "-- title: A\n-- parameter: x text\nSELECT 1").contains("x is not used"));
    }
}

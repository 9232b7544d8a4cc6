//! Parses an SQL statement as far as necessary: where its parameters (`:from`) and its tables (`retail.till`) are, and where a second statement
//! would begin. Quoted text and comments contain neither.
//!
//! Deliberately absent: a check that the statement is right. The database does that.

use crate::{
    definition::{Dialect, SYSTEM},
    table::sql_name,
};

/// A piece of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// Passed on to the database as it is.
    Verbatim(String),
    /// `:name`
    Parameter(String),
    /// `context.table`
    Table { context: String, table: String },
}

/// Why a text is not a statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A quote or a comment is not closed.
    #[error("line {line}: what begins with {opening} does not end")]
    Open {
        /// Where it begins.
        line: usize,
        /// How it begins.
        opening: String,
    },
    /// More text follows the end of the statement.
    #[error("line {line}: a query is one statement; a second one begins here")]
    Second {
        /// Where.
        line: usize,
    },
    /// There are only comments.
    #[error("there is no statement")]
    Empty,
}

/// A statement with its parameters and tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementText {
    pieces: Vec<Piece>,
}

/// A text that is being parsed.
struct Reading<'t> {
    rest: &'t str,
    line: usize,
    verbatim: String,
    pieces: Vec<Piece>,
}

impl StatementText {
    /// Parses a text whose tables are those of some contexts, and of the stage itself.
    ///
    /// # Errors
    /// [`TextError`].
    pub fn of_contexts(text: &str, contexts: &[String]) -> Result<Self, TextError> {
        Self::read(text, |word| word == SYSTEM || contexts.iter().any(|each| sql_name(each) == word))
    }

    /// Parses a text. A name for which `is_context` is true may stand before a table.
    ///
    /// # Errors
    /// [`TextError`].
    pub fn read(text: &str, is_context: impl Fn(&str) -> bool) -> Result<Self, TextError> {
        let mut reading = Reading { rest: text, line: 1, verbatim: String::new(), pieces: Vec::new() };
        let (mut ended, mut anything) = (false, false);
        while let Some(next) = reading.rest.chars().next() {
            if reading.comment()? {
                continue;
            }
            if next.is_whitespace() {
                reading.take(next.len_utf8());
                continue;
            }
            if ended {
                return Err(TextError::Second { line: reading.line });
            }
            if next == ';' {
                reading.rest = reading.rest.get(1..).unwrap_or_default();
                ended = true;
                continue;
            }
            anything = true;
            reading.word_or_sign(next, &is_context)?;
        }
        reading.flush();
        match anything {
            true => Ok(Self { pieces: reading.pieces }),
            false => Err(TextError::Empty),
        }
    }

    /// The names of its parameters, each once, in the order of their first use.
    pub fn parameters(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for piece in &self.pieces {
            if let Piece::Parameter(name) = piece
                && !names.contains(&name.as_str())
            {
                names.push(name.as_str());
            }
        }
        names
    }

    /// The statement in the dialect of a database. `parameter` writes the parameter with the given name.
    pub fn written(&self, dialect: Dialect, parameter: impl Fn(&str) -> String) -> String {
        let pieces = self.pieces.iter().map(|piece| match piece {
            Piece::Verbatim(text) => text.clone(),
            Piece::Parameter(name) => parameter(name),
            Piece::Table { context, table } => dialect.name(context, table),
        });
        pieces.collect()
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn word_length(text: &str) -> usize {
    text.find(|character| !is_word(character)).unwrap_or(text.len())
}

impl Reading<'_> {
    fn take(&mut self, length: usize) {
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.matches('\n').count();
        self.verbatim.push_str(taken);
        self.rest = rest;
    }

    fn flush(&mut self) {
        if !self.verbatim.is_empty() {
            self.pieces.push(Piece::Verbatim(std::mem::take(&mut self.verbatim)));
        }
    }

    /// Skips a comment, which is replaced by a blank.
    fn comment(&mut self) -> Result<bool, TextError> {
        let length = if self.rest.starts_with("--") {
            self.rest.find('\n').unwrap_or(self.rest.len())
        } else if self.rest.starts_with("/*") {
            self.comment_length()?
        } else {
            return Ok(false);
        };
        let (comment, rest) = self.rest.split_at(length);
        self.line += comment.matches('\n').count();
        self.rest = rest;
        self.verbatim.push(' ');
        Ok(true)
    }

    /// PostgreSQL's comments can be nested; SQLite's end at the first end mark. Text for which this makes a difference is refused.
    fn comment_length(&self) -> Result<usize, TextError> {
        let open = || TextError::Open { line: self.line, opening: "/*".to_owned() };
        let inner = self.rest.get(2..).unwrap_or_default();
        let end = inner.find("*/").ok_or_else(open)?;
        match inner.get(..end).is_some_and(|comment| comment.contains("/*")) {
            true => Err(open()),
            false => Ok(2 + end + 2),
        }
    }

    fn word_or_sign(&mut self, next: char, is_context: &impl Fn(&str) -> bool) -> Result<(), TextError> {
        match next {
            '\'' | '"' | '`' => self.quoted(next),
            '[' => {
                self.take(1);
                Ok(())
            }
            '$' if self.dollar_quote().is_some() => self.dollar_quoted(),
            ':' => {
                self.colon();
                Ok(())
            }
            next if is_word(next) => {
                self.word(is_context);
                Ok(())
            }
            next => {
                self.take(next.len_utf8());
                Ok(())
            }
        }
    }

    /// A quoted text or name. A doubled quote inside it is a quote character. A backslash before a quote ends nothing in SQLite but may in
    /// PostgreSQL (`E'…'`), so it is refused there.
    fn quoted(&mut self, quote: char) -> Result<(), TextError> {
        let open = TextError::Open { line: self.line, opening: quote.to_string() };
        let escaping = self.verbatim.ends_with(['E', 'e']) && quote == '\'';
        let inner = self.rest.get(1..).unwrap_or_default();
        let end = inner.find(quote).ok_or_else(|| open.clone())?;
        if escaping && inner.get(..end).is_some_and(|text| text.contains('\\')) {
            return Err(open);
        }
        self.take(end + 2);
        Ok(())
    }

    fn dollar_quote(&self) -> Option<usize> {
        let inner = self.rest.get(1..)?;
        let length = word_length(inner);
        inner.get(length..)?.starts_with('$').then_some(length + 2)
    }

    fn dollar_quoted(&mut self) -> Result<(), TextError> {
        let length = self.dollar_quote().unwrap_or_default();
        let (quote, inner) = self.rest.split_at(length);
        let open = || TextError::Open { line: self.line, opening: quote.to_owned() };
        let end = inner.find(quote).ok_or_else(open)?;
        self.take(length + end + length);
        Ok(())
    }

    fn colon(&mut self) {
        let inner = self.rest.get(1..).unwrap_or_default();
        let length = word_length(inner);
        if inner.starts_with(':') {
            self.take(2);
        } else if length > 0 && !inner.starts_with(|first: char| first.is_ascii_digit()) {
            let (name, rest) = inner.split_at(length);
            self.flush();
            self.pieces.push(Piece::Parameter(name.to_owned()));
            self.rest = rest;
        } else {
            self.take(1);
        }
    }

    fn word(&mut self, is_context: &impl Fn(&str) -> bool) {
        let length = word_length(self.rest);
        let (word, rest) = self.rest.split_at(length);
        let table = rest.strip_prefix('.').map(|rest| rest.split_at(word_length(rest)));
        match table {
            Some((table, rest)) if !table.is_empty() && is_context(word) && !self.verbatim.ends_with('.') => {
                self.flush();
                self.pieces.push(Piece::Table { context: word.to_owned(), table: table.to_owned() });
                self.rest = rest;
            }
            _ => self.take(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<StatementText, TextError> {
        StatementText::read(text, |name| ["retail", "orders", "millstream"].contains(&name))
    }

    fn written(text: &str, dialect: Dialect) -> String {
        read(text).unwrap().written(dialect, |name| format!("<{name}>"))
    }

    #[test]
    fn parameters_and_tables_are_found_where_they_stand() {
        let text = "SELECT t.store, ':no' FROM retail.till AS t JOIN orders.order o ON 1=1 -- :no retail.x\n\
             WHERE t.business_date >= :from AND :from::text <> \"retail.q\" /* :no */;";
        assert_eq!(read(text).unwrap().parameters(), ["from"]);
        let sqlite = written(text, Dialect::Sqlite);
        assert!(sqlite.contains("FROM \"retail_till\" AS t JOIN \"orders_order\" o"), "{sqlite}");
        assert!(sqlite.contains(">= <from> AND <from>::text") && sqlite.contains("':no'"), "{sqlite}");
        assert!(!sqlite.contains("retail.x") && sqlite.contains("\"retail.q\""), "{sqlite}");
        assert!(
            written(text, Dialect::Postgres)
                .contains("FROM \"retail\".\"till\" AS t JOIN \"orders\".\"order\" o")
        );
    }

    #[test]
    fn a_second_statement_is_refused_however_it_is_hidden() {
        for text in [
            "SELECT 1; DELETE FROM x",
            "SELECT 1; -- a\n DELETE FROM x",
            "SELECT 1 /* a */ ; /* b */ SELECT 2",
            "SELECT ';'; SELECT ';'",
        ] {
            assert!(matches!(read(text), Err(TextError::Second { .. })), "{text}");
        }
        for text in ["SELECT 1;", "SELECT ';' ; -- the end", "SELECT $$;$$", "SELECT \";\" ;  "] {
            read(text).unwrap();
        }
    }

    #[test]
    fn what_does_not_end_is_refused_with_its_line() {
        for text in [
            "SELECT 1\n, 'a",
            "SELECT 1\n, \"a",
            "SELECT 1\n /* a",
            "SELECT 1\n, $a$ b $",
            "SELECT 1\n /* /* */ */",
        ] {
            let error = read(text).unwrap_err();
            assert!(error.to_string().starts_with("line 2"), "{text}: {error}");
        }
        assert_eq!(read(" -- nothing\n ; "), Err(TextError::Empty));
        assert!(read("SELECT E'\\'; DELETE FROM x --'").is_err());
    }
}

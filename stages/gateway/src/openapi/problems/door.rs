//! The kinds of requests, each of which can be refused for reasons of its own.

/// Where a problem can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// A command is sent.
    Command,
    /// It is asked what became of one.
    Status,
    /// A row is asked for.
    Row,
    /// A list is asked for.
    List,
    /// Several commands are sent.
    Lines,
    /// A row of a report is asked for.
    Report,
    /// A list of a report is asked for.
    Reports,
    /// The history of an aggregate is asked for.
    History,
    /// A configured query is asked.
    Query,
    /// A statement is asked that no file has.
    Statement,
    /// It is asked which configured queries there are.
    Queries,
    /// Dead letters are listed.
    Letters,
    /// A dead letter is asked for.
    Letter,
    /// A dead letter is retried or dropped.
    LetterMove,
    /// Live rows are asked for.
    Live,
    /// The gateway describes itself.
    Document,
}

impl Door {
    pub(super) const ALL: [Self; 16] = [
        Self::Command,
        Self::Status,
        Self::Row,
        Self::List,
        Self::Lines,
        Self::Report,
        Self::Reports,
        Self::History,
        Self::Query,
        Self::Statement,
        Self::Queries,
        Self::Letters,
        Self::Letter,
        Self::LetterMove,
        Self::Live,
        Self::Document,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Command => "Command",
            Self::Status => "Status",
            Self::Row => "Row",
            Self::List => "List",
            Self::Lines => "Lines",
            Self::Report => "Report",
            Self::Reports => "Reports",
            Self::History => "History",
            Self::Query => "Query",
            Self::Statement => "Statement",
            Self::Queries => "Queries",
            Self::Letters => "Letters",
            Self::Letter => "Letter",
            Self::LetterMove => "LetterMove",
            Self::Live => "Live",
            Self::Document => "Document",
        }
    }
}

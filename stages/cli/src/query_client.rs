//! Asks the views: `query.<context>.<view>.get` and `.list`, page by page. docs/queries.md is the contract.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use millstream_contract::{
    error_text::one_line,
    exit_code::{ExitCode, Failure},
    header,
    position::StreamPosition,
    stored_message::Headers,
    stream_names,
};
use millstream_domain::process_rejections::OUTCOME_VIEWS;
use millstream_jetstream::{
    broker::Broker as _,
    nats_broker::{AskError, NatsBroker},
};
use millstream_read_side::query_service::{LocalQueries, Operation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::session::Connected;

/// How many rows are requested at once.
pub(crate) const PAGE: usize = 1000;
/// How long an answer may take, in addition to the wait for a position.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often a query is sent in all. It is repeated if it met a stopping process, or none.
const TRIES: u32 = 3;
/// The pause before that.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// The code of a missing key.
const NOT_FOUND: &str = "404";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    /// No process has the view.
    #[error("nobody answers {subject}; is there such a view, and does its stage run? (`nats micro ls`)")]
    NoResponders { subject: String },
    /// No answer came.
    #[error("no answer to {subject}: {detail}")]
    NoAnswer { subject: String, detail: String },
    /// The answer is a refusal.
    #[error("{subject}: {text} ({code})")]
    Refused { subject: String, code: String, text: String },
    /// The answer does not follow the contract.
    #[error("{subject} answers with something else than rows")]
    Form { subject: String, source: serde_json::Error },
}

impl From<AskError> for QueryError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::NoResponders { subject } => Self::NoResponders { subject },
            AskError::NoAnswer { subject, detail } => Self::NoAnswer { subject, detail },
            AskError::Refused { subject, code, text, .. } => Self::Refused { subject, code, text },
        }
    }
}

impl Failure for QueryError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoResponders { .. } | Self::NoAnswer { .. } => ExitCode::Unavailable,
            Self::Refused { code, .. } if code.starts_with('4') => ExitCode::Usage,
            Self::Refused { .. } => ExitCode::Unavailable,
            Self::Form { .. } => ExitCode::Data,
        }
    }
}

/// The field that replaces a row's own fields if no answer can hold the row.
pub(crate) const TOO_LARGE: &str = "too_large";

/// A row of a view.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ViewRow {
    /// Its key.
    pub(crate) key: String,
    /// Its fields; null if it is too large.
    #[serde(default)]
    pub(crate) value: Value,
    /// Its size, if no answer can hold it.
    pub(crate) too_large: Option<TooLarge>,
}

/// What is known about a row that no answer can hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TooLarge {
    /// Its size in bytes.
    pub(crate) bytes: u64,
    /// The largest size that fits.
    pub(crate) bytes_max: u64,
}

impl ViewRow {
    /// Its fields. For a row that is too large: its key under the name `first`, and its size.
    pub(crate) fn into_fields(self, first: &str) -> Value {
        match self.too_large {
            None => self.value,
            Some(too_large) => json!({ first: self.key, TOO_LARGE: too_large }),
        }
    }
}

/// A page of rows.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    /// In key order.
    pub(crate) rows: Vec<ViewRow>,
    /// Where the next page begins; `None` on the last page.
    pub(crate) cursor: Option<String>,
}

/// The position that the answer must have reached.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Freshness {
    /// Wait until the view has reached this position, as `millstream send --json` gives it in `query_position`; all
    /// that is stored now when absent
    #[arg(long, value_name = "POSITION")]
    pub(crate) position: Option<String>,
    /// How long to wait for it
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = crate::duration)]
    pub(crate) wait: Duration,
    /// Do not wait: show what the view has, even if it is behind
    #[arg(long, conflicts_with_all = ["position", "wait"])]
    pub(crate) as_it_is: bool,
}

impl Freshness {
    /// Decides on a position, so that the answer contains everything that was stored before by anybody.
    pub(crate) async fn settled(mut self, connected: &Connected, view: &str) -> Self {
        if self.as_it_is || self.position.is_some() {
            return self;
        }
        let stream =
            if OUTCOME_VIEWS.contains(&view) { stream_names::OUTCOMES } else { stream_names::EVENTS };
        // A user who may query need not be allowed to read the states of streams.
        if let Ok(state) = connected.broker.state(stream).await {
            self.position =
                Some(StreamPosition::new(stream, state.generation, state.last_sequence).to_string());
        }
        self
    }
}

/// Who answers.
#[derive(Debug, Clone)]
pub(crate) enum ViewSource {
    /// The stages that have the view.
    Service(Box<NatsBroker>, Freshness),
    /// This process, from what it has folded.
    Past(Arc<LocalQueries>),
}

/// A view to ask.
#[derive(Debug, Clone)]
pub(crate) struct ViewClient {
    source: ViewSource,
    context: String,
    view: String,
}

/// The parts of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Rows as JSON.
    pub(crate) body: Bytes,
    /// Their stream position.
    pub(crate) position: Option<String>,
}

impl ViewClient {
    pub(crate) fn new(source: ViewSource, context: &str, view: &str) -> Self {
        Self { source, context: context.to_owned(), view: view.to_owned() }
    }

    /// `<context>.<view>`.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.context, self.view)
    }

    /// The row of a key, if it exists.
    ///
    /// # Errors
    /// [`QueryError`].
    pub(crate) async fn get(&self, key: &str) -> Result<Option<ViewRow>, QueryError> {
        match self.ask(Operation::Get, &json!({ "key": key })).await {
            Ok(row) => Ok(Some(row)),
            Err(QueryError::Refused { code, .. }) if code == NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The rows whose keys start with `prefix`, in the order of keys, page by page.
    pub(crate) fn list(&self, prefix: &str) -> RowPages<'_> {
        RowPages {
            view: self,
            prefix: prefix.to_owned(),
            cursor: None,
            ready: VecDeque::new(),
            complete: false,
        }
    }

    async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        operation: Operation,
        body: &Value,
    ) -> Result<T, QueryError> {
        let answer = self.answer(operation, body).await?;
        let subject = self.subject(operation);
        serde_json::from_slice(&answer.body).map_err(|source| QueryError::Form { subject, source })
    }

    /// The answer as it comes.
    ///
    /// # Errors
    /// [`QueryError`].
    pub(crate) async fn answer(&self, operation: Operation, body: &Value) -> Result<Answer, QueryError> {
        let subject = self.subject(operation);
        let (broker, freshness) = match &self.source {
            ViewSource::Service(broker, freshness) => (broker, freshness),
            ViewSource::Past(queries) => {
                let body = body.to_string();
                let view = (self.context.as_str(), self.view.as_str());
                return match queries.ask(view, operation, body.as_bytes(), usize::MAX).await {
                    Ok((body, position)) => {
                        Ok(Answer { body: body.into(), position: Some(position.to_string()) })
                    }
                    Err(error) => {
                        let (code, text) = (error.code().to_string(), one_line(&error));
                        Err(QueryError::Refused { subject, code, text })
                    }
                };
            }
        };
        let mut tries = 1;
        loop {
            match ask_once(broker, freshness, &subject, body).await {
                Err(QueryError::NoResponders { .. } | QueryError::NoAnswer { .. }) if tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                other => return other,
            }
        }
    }

    fn subject(&self, operation: Operation) -> String {
        format!("query.{}.{}", self.name(), operation.name())
    }
}

async fn ask_once(
    broker: &NatsBroker,
    freshness: &Freshness,
    subject: &str,
    body: &Value,
) -> Result<Answer, QueryError> {
    let mut headers = Headers::new();
    if let Some(position) = &freshness.position {
        headers.push(header::POSITION, position);
        headers.push(header::WAIT_MS, freshness.wait.as_millis().to_string());
    }
    let wait = ANSWER_WAIT_MAX + freshness.wait;
    let answer = broker.ask(subject, &headers, body.to_string().into(), wait).await?;
    let position = answer.headers.get(header::POSITION).map(str::to_owned);
    Ok(Answer { body: answer.payload, position })
}

/// Rows of a list. The next page is requested when it is needed.
#[derive(Debug)]
pub(crate) struct RowPages<'a> {
    view: &'a ViewClient,
    prefix: String,
    cursor: Option<String>,
    ready: VecDeque<ViewRow>,
    complete: bool,
}

impl RowPages<'_> {
    /// The next row; `None` after the last one.
    ///
    /// # Errors
    /// [`QueryError`].
    pub(crate) async fn next(&mut self) -> Result<Option<ViewRow>, QueryError> {
        while self.ready.is_empty() && !self.complete {
            let mut body = json!({ "prefix": self.prefix, "limit": PAGE });
            if let (Some(cursor), Some(fields)) = (&self.cursor, body.as_object_mut()) {
                fields.insert("cursor".to_owned(), json!(cursor));
            }
            let page: Page = self.view.ask(Operation::List, &body).await?;
            self.ready.extend(page.rows);
            self.complete = page.cursor.is_none();
            self.cursor = page.cursor;
        }
        Ok(self.ready.pop_front())
    }

    /// All remaining rows.
    ///
    /// # Errors
    /// [`QueryError`].
    pub(crate) async fn collect(mut self) -> Result<Vec<ViewRow>, QueryError> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }
}

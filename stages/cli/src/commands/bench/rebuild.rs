//! `millstream bench rebuild`: how fast rows are built from the first event, against a bare loop over the same stream.

use std::path::Path;

use millstream_contract::exit_code::ExitCode;
use millstream_domain::projection::Projection;
use millstream_jetstream::{nats_broker::NatsBroker, nats_server::free_port};
use serde::Serialize;

use super::{failed, on_all_cores};
use crate::{
    bench::{
        rebuild::{RebuildError, bare, rebuild},
        sales::{self, Plan, Recorded},
    },
    deployment::{Deployment, DeploymentOptions},
    failure::CommandFailure,
    output,
    session::Session,
};

/// What makes the stream; it stops before anything is measured.
const STAGES: [&str; 2] = ["command-handler", "process-manager"];

/// From nothing to the rows of every view, and of every report, over a stream of deliveries, sales and the movements of stock
/// that follow from them.
#[derive(Debug, clap::Args)]
pub(crate) struct RebuildArguments {
    /// Sales to record, each with two lines and so two movements of stock; for every 20 of them a sku is delivered to 50 stores
    #[arg(long, default_value_t = 100_000, value_parser = crate::whole(1..=u32::MAX), value_name = "N")]
    sales: u32,
    /// How often to measure; the median counts
    #[arg(long, default_value_t = 5, value_parser = crate::whole(1..=u32::MAX), value_name = "N")]
    rounds: u32,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Events a second.
#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    bare_loop: f64,
    views: f64,
    reports: f64,
    /// Rows written, where the bare loop writes one a commit.
    views_rows: u64,
    reports_rows: u64,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
struct Figures {
    commits: u64,
    events: u64,
    rounds: Vec<Round>,
    /// Medians of the ratios of a round.
    views_ratio: f64,
    reports_ratio: f64,
}

impl Figures {
    fn new(recorded: Recorded, rounds: Vec<Round>) -> Self {
        let ratio = |rate: fn(&Round) -> f64| {
            let mut ratios: Vec<f64> = rounds.iter().map(|round| rate(round) / round.bare_loop).collect();
            ratios.sort_by(f64::total_cmp);
            ratios.get(ratios.len() / 2).map_or(0.0, |ratio| (ratio * 100.0).round() / 100.0)
        };
        Self {
            commits: recorded.commits,
            events: recorded.events,
            views_ratio: ratio(|round| round.views),
            reports_ratio: ratio(|round| round.reports),
            rounds,
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} events in {} commits, events/s\nround  bare loop      views    reports",
            self.events, self.commits
        );
        for (number, Round { bare_loop, views, reports, .. }) in (1..).zip(&self.rounds) {
            text.push_str(&format!("\n{number:>5}  {bare_loop:>9.0}  {views:>9.0}  {reports:>9.0}"));
        }
        text.push_str(&format!("\nratio             {:>9.2}  {:>9.2}", self.views_ratio, self.reports_ratio));
        if let Some(Round { views_rows, reports_rows, .. }) = self.rounds.last() {
            let commits = self.commits;
            text.push_str(&format!("\nrows   {commits:>9}  {views_rows:>9}  {reports_rows:>9}"));
        }
        text
    }
}

/// Runs it.
pub(super) async fn run(arguments: RebuildArguments, session: &Session) -> Result<ExitCode, CommandFailure> {
    let folder = tempfile::tempdir().map_err(|error| CommandFailure::file(&std::env::temp_dir(), &error))?;
    let options = DeploymentOptions {
        folder: folder.path().to_owned(),
        http_port: None,
        nats_port: free_port()?,
        servers: std::num::NonZeroUsize::MIN,
        sync_interval: None,
        replicas: std::collections::BTreeMap::new(),
        settings: Vec::new(),
        sql: false,
        stages: Some(&STAGES),
    };
    let mut deployment = Deployment::prepare(options, session)?;
    session.console.say("starting nats-server and the stages");
    let figures = match deployment.start().await {
        Ok(()) => measure(&arguments, &mut deployment, folder.path()).await,
        Err(failure) => Err(failure),
    };
    deployment.stop().await;
    let figures = figures?;
    let text = if arguments.json {
        serde_json::to_string(&figures).expect("figures are plain numbers")
    } else {
        figures.text()
    };
    output::line(text)?;
    Ok(ExitCode::Ok)
}

async fn measure(
    arguments: &RebuildArguments,
    deployment: &mut Deployment,
    folder: &Path,
) -> Result<Figures, CommandFailure> {
    let console = deployment.session().console.clone();
    let session = deployment.session().clone();
    let plan = Plan::new(arguments.sales as usize);
    let (deliveries, movements) = (plan.deliveries(), plan.movements());
    console.say(format_args!(
        "recording {deliveries} deliveries, {} sales and {movements} movements of stock",
        arguments.sales
    ));
    let broker = session.connect().await?.broker;
    let recorded = on_all_cores(async move { sales::record(&broker, plan).await.map_err(failed) }).await?;
    deployment.stop_stages().await;
    let mut rounds = Vec::new();
    for number in 1..=arguments.rounds {
        console.say(format_args!("round {number} of {}", arguments.rounds));
        let folder = folder.join(format!("round-{number}"));
        std::fs::create_dir_all(&folder).map_err(|error| CommandFailure::file(&folder, &error))?;
        let broker = session.connect().await?.broker;
        let ledgers = session.reports()?.into_iter().map(|report| report.ledger).collect();
        let folds = [session.views()?.projections, ledgers];
        let (of, round_folder) = (recorded, folder.clone());
        rounds.push(
            on_all_cores(async move { round(&broker, &round_folder, folds, of).await.map_err(failed) })
                .await?,
        );
        std::fs::remove_dir_all(&folder).map_err(|error| CommandFailure::file(&folder, &error))?;
    }
    Ok(Figures::new(recorded, rounds))
}

async fn round(
    broker: &NatsBroker,
    folder: &Path,
    [views, reports]: [Vec<Box<dyn Projection>>; 2],
    recorded: Recorded,
) -> Result<Round, RebuildError> {
    let Recorded { commits, events } = recorded;
    let rate = |elapsed: std::time::Duration| (events as f64 / elapsed.as_secs_f64()).round();
    let bare_loop = rate(bare(broker, &folder.join("bare.redb"), commits).await?);
    let views = rebuild(broker, &folder.join("views.redb"), views, commits).await?;
    let reports = rebuild(broker, &folder.join("reports.redb"), reports, commits).await?;
    Ok(Round {
        bare_loop,
        views: rate(views.elapsed),
        reports: rate(reports.elapsed),
        views_rows: views.rows,
        reports_rows: reports.rows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_rounds_counts() {
        let round = |views| Round { bare_loop: 100.0, views, reports: 50.0, views_rows: 4, reports_rows: 2 };
        let figures =
            Figures::new(Recorded { commits: 1, events: 1 }, [90.0, 10.0, 70.0].map(round).to_vec());
        assert_eq!((figures.views_ratio, figures.reports_ratio), (0.7, 0.5));
    }
}

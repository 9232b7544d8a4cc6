//! `new app`: an application in a folder of its own. It has a workspace with a model of one context, the program, golden files, and what is
//! needed to build, run and check it. It builds and passes its tests unchanged.

use std::path::{Path, PathBuf};

use clap::Args;
use millstream_contract::exit_code::ExitCode;
use millstream_runtime::stage::MILLSTREAM_VERSION;

use super::{
    context::{Like, application_files},
    files::{Written, expect_free, write_all},
    names::{Names, check},
};
use crate::{failure::CommandFailure, output};

/// What to write.
#[derive(Debug, Args)]
pub(super) struct AppArguments {
    /// Its name, and that of its folder: lower-kebab-case
    name: String,
    /// The name of its first context; its own when absent
    #[arg(long = "first-context", value_name = "NAME")]
    context: Option<String>,
    /// The name of that context's first aggregate
    #[arg(long, default_value = "item", value_name = "NAME")]
    aggregate: String,
    /// A checkout of Millstream to build with, in place of the published crate
    #[arg(long, value_name = "FOLDER", hide = true)]
    millstream_path: Option<PathBuf>,
}

/// Runs it.
pub(super) fn run(arguments: &AppArguments) -> Result<ExitCode, CommandFailure> {
    let AppArguments { name, context, aggregate, millstream_path } = arguments;
    check("application", name)?;
    let names = Names::new(name, context.as_ref().unwrap_or(name), aggregate)?;
    let dependency = dependency(millstream_path.as_deref())?;
    let root = PathBuf::from(name);
    expect_free(&[&root])?;
    write_all(&files(&names, &root, &dependency), &root)?;
    output::line(format_args!(
        "\nNext:\n  cd {name}\n  cargo fmt\n  cargo test\n  cargo run --release -- up --dir data\nREADME.md goes on from here."
    ))?;
    Ok(ExitCode::Ok)
}

/// The Millstream with which the application is built.
fn dependency(checkout: Option<&Path>) -> Result<String, CommandFailure> {
    let Some(checkout) = checkout else {
        return Ok(format!("version = {MILLSTREAM_VERSION:?}"));
    };
    let package = checkout.join("pipeline/millstream");
    let package = package.canonicalize().map_err(|error| CommandFailure::file(&package, &error))?;
    Ok(format!("path = {:?}", package.display().to_string()))
}

fn files(names: &Names, root: &Path, dependency: &str) -> Vec<Written> {
    let templates = [
        ("Cargo.toml", include_str!("../../../templates/app/workspace.toml")),
        ("README.md", include_str!("../../../templates/app/README.md")),
        ("Dockerfile", include_str!("../../../templates/app/Dockerfile.template")),
        (".dockerignore", "target\ndata\n.git\n"),
        (".gitignore", "/target\n/data\n"),
        ("compose.yaml", include_str!("../../../templates/app/compose.yaml")),
        ("values.yaml", include_str!("../../../templates/app/values.yaml")),
        (".github/workflows/ci.yaml", include_str!("../../../templates/app/ci.yaml")),
        ("rustfmt.toml", "max_width = 110\nuse_small_heuristics = \"Max\"\n"),
        ("model/Cargo.toml", include_str!("../../../templates/app/model.toml")),
        ("model/src/lib.rs", include_str!("../../../templates/app/lib.rs")),
        ("model/tests/application.rs", include_str!("../../../templates/app/application_test.rs")),
        ("program/Cargo.toml", include_str!("../../../templates/app/program.toml")),
        ("program/src/main.rs", include_str!("../../../templates/app/main.rs")),
    ];
    let mut files: Vec<Written> = templates
        .into_iter()
        .map(|(path, template)| {
            let template = template.replace("{{millstream}}", dependency);
            Written::filled(root.join(path), names, &template)
        })
        .collect();
    files.extend(application_files(names, &root.join("model"), Like::View));
    files
}

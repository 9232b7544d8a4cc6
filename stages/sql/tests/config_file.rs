//! The file in `config/` and the docs against the stage's keys.

use millstream_model::Reference;
use millstream_runtime::testing::stage_files;
use sql_stage::config::StageConfig;

#[test]
fn the_file_in_config_and_the_docs_explain_every_key() {
    stage_files::check::<StageConfig<Reference>>("sql");
}

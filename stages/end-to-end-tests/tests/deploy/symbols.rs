//! Programs without symbols, as the image has them.

use std::{fs, process::Command};

use end_to_end_tests::{
    binaries::{binary, repository},
    program::{self, announce_skip},
};
use tempfile::TempDir;

#[tokio::test]
async fn programs_run_without_their_symbols_and_name_them() {
    if Command::new("objcopy").arg("--version").output().is_err() {
        return announce_skip("objcopy (binutils) is not installed");
    }
    let folder = TempDir::new().unwrap();
    let [programs, symbols] = ["programs", "symbols"].map(|name| folder.path().join(name));
    let original = binary("projector");
    let mut strip = program::command(repository().join("deploy/strip-programs.sh"));
    strip.args([&programs, &symbols, &original]);
    let _done = program::run(strip, b"").await.expect_success("strip-programs.sh");
    let mut version = program::command(programs.join("projector"));
    version.arg("--version");
    let said = program::run(version, b"").await.expect_success("--version");
    assert!(said.stdout.contains("projector"), "{said:?}");
    let [before, after] =
        [&original, &programs.join("projector")].map(|path| fs::metadata(path).unwrap().len());
    assert!(after < before, "{after} of {before} bytes");
    let program = fs::read(programs.join("projector")).unwrap();
    let link = b"projector.debug";
    assert!(program.windows(link.len()).any(|bytes| bytes == link), "it names its symbols");
    assert!(symbols.join("projector.debug").is_file());
}

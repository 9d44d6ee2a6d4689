//! The servers that tests start for themselves, and the libraries that reach them: which are missing,
//! and their Debian packages.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use crate::steps::{Failure, installed};

/// A program that a suite starts or a build asks, and the package that it comes from, or several.
struct Server {
    program: &'static str,
    package: &'static str,
}

const SERVERS: &[Server] = &[
    Server { program: "mosquitto", package: "mosquitto" },
    Server { program: "nats-server", package: "nats-server" },
    Server { program: "rabbitmq-server", package: "rabbitmq-server" },
    // For aedes, and for the npm package with which ours talks. One that is there is good, wherever it came from, and has its npm: Debian's would not go with it.
    Server { program: "node", package: "nodejs npm" },
    // In which the dashboard is tried.
    Server { program: "chromium", package: "chromium" },
    // Prometheus's own, which tries the alerts.
    Server { program: "promtool", package: "prometheus" },
    Server { program: "postgres", package: "postgresql" },
    Server { program: "mariadbd", package: "mariadb-server" },
    // Says where the library is; Diesel links with it.
    Server { program: "pg_config", package: "libpq-dev" },
    Server { program: "mariadb_config", package: "libmariadb-dev" },
];

/// Where Debian keeps servers, which is not in everybody's PATH.
const FOLDERS: &[&str] = &["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// Where it keeps those of PostgreSQL, by version.
const POSTGRES: &str = "/usr/lib/postgresql";

/// Makes every server available: installs what is missing if it may, else says what to install.
pub(crate) fn provide() -> Result<(), Failure> {
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !installed("apt-get") || !is_root() {
        return Err(Failure::new(format!(
            "these servers are missing: {}\nInstall them, on Debian as root with: {install}",
            programs(&packages)
        )));
    }

    println!("missing: {}; installing with apt-get", programs(&packages));
    // Stale lists may do, so only the installation itself decides.
    let _ = apt("apt-get update");
    if !apt(&install) {
        return Err(Failure::new(format!("apt-get could not install them; see above. By hand: {install}")));
    }
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("installed, but not found afterwards: {}", programs(&packages))))
}

/// The packages of the servers that are not there, each once.
fn missing() -> Vec<&'static str> {
    let mut packages: Vec<_> =
        SERVERS.iter().filter(|server| find(server.program).is_none()).map(|server| server.package).collect();
    packages.dedup();
    packages
}

fn programs(packages: &[&str]) -> String {
    let programs: Vec<_> = SERVERS
        .iter()
        .filter(|server| packages.contains(&server.package))
        .map(|server| server.program)
        .collect();
    programs.join(", ")
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let postgres = fs::read_dir(POSTGRES).into_iter().flatten().flatten();
    let postgres = postgres.map(|version| version.path().join("bin"));
    let mut folders = env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from)).chain(postgres);
    folders.find_map(|folder| Some(folder.join(program)).filter(|file| file.is_file()))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

fn apt(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap_or_default();
    let status = Command::new(program).args(words).env("DEBIAN_FRONTEND", "noninteractive").status();
    status.is_ok_and(|status| status.success())
}

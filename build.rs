//! Gives the program what `version` tells: the commit, the target and the profile of the build.
//!
//! The commit is `SIDECAR_COMMIT`, else git's, else that of a package from a registry, else unknown: a build needs no git.

use std::{env, fs, path::Path, process::Command};

fn main() {
    let commit = variable("SIDECAR_COMMIT").or_else(of_git).or_else(of_package).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=SIDECAR_COMMIT={commit}");
    println!("cargo::rustc-env=SIDECAR_TARGET={}", variable("TARGET").unwrap_or_default());
    println!("cargo::rustc-env=SIDECAR_PROFILE={}", profile());
    println!("cargo::rerun-if-env-changed=SIDECAR_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
}

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script by variables")]
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The commit that is checked out, and whether what is built differs from it. A package may lie in the checkout of another
/// project, so git must know this file.
fn of_git() -> Option<String> {
    const BUILT: [&str; 5] = ["build.rs", "src", "simulator", "Cargo.toml", "Cargo.lock"];
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    let commit = git(&["rev-parse", "HEAD"])?;
    let modified = !git(&[&["--no-optional-locks", "status", "--porcelain", "--"][..], &BUILT].concat())?.is_empty();
    // Each commit and each checkout adds a line to the second file.
    let watched = ["HEAD", "logs/HEAD"].into_iter().filter_map(|file| git(&["rev-parse", "--git-path", file]));
    for path in watched.chain(BUILT.map(str::to_owned)).filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
    Some(if modified { format!("{commit}, modified") } else { commit })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// `cargo package` notes the commit in a file. It is JSON, and a digest is the only long word in it.
fn of_package() -> Option<String> {
    let noted = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    noted.split('"').find(|word| word.len() >= 40 && word.bytes().all(|byte| byte.is_ascii_hexdigit())).map(str::to_owned)
}

/// The profile's directory under `target`. `PROFILE` says only whether it is a release.
fn profile() -> String {
    let directory = variable("OUT_DIR").and_then(|out| {
        let directory = Path::new(&out).ancestors().nth(3)?.file_name()?;
        Some(directory.to_str()?.to_owned())
    });
    directory.or_else(|| variable("PROFILE")).unwrap_or_default()
}

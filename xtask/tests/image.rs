//! The image: unpacked, and each program run in a root that holds nothing else.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set up its place fails where it stands"
)]

#[macro_use]
extern crate harness;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flate2::read::GzDecoder;
use serde_json::Value;

fn main() -> std::process::ExitCode {
    harness::run()
}

/// A directory of this test's own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tortie-image-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory that stays behind in /tmp fails no test.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes the image of the programs as the development profile builds them.
fn make(output: &Path) {
    let status = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["image", "--profile", "dev", "--output"])
        .arg(output)
        .status()
        .unwrap();
    assert!(status.success());
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The file that a descriptor or a path names, once its size and its sum (by the coreutils) are what they should be.
fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().unwrap();
    let path = layout.join("blobs").join(digest.replace(':', "/"));
    assert_eq!(fs::metadata(&path).unwrap().len(), descriptor["size"]);
    assert_eq!(format!("sha256:{}", sum(&path)), digest);
    path
}

fn sum(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').next().unwrap().to_owned()
}

/// Runs a program of the image with `root` as its root directory.
fn in_root(root: &Path, words: &[&str]) -> Output {
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount"])
        // A runtime mounts /proc too: by it a program finds itself.
        .args(["--pid", "--fork", "--mount-proc", "--root"])
        .arg(root)
        .args(words)
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/opt/cni/bin")
        .env("SLEEP", "false");
    match command.output() {
        Ok(output) => output,
        Err(error) => harness::skip("namespaces", &format!("no program `unshare`: {error}")),
    }
}

#[test]
fn each_program_of_the_image_runs_in_a_root_that_holds_nothing_else() {
    let scratch = Scratch::new("unpacked");
    let archive = scratch.0.join("image.tar");
    make(&archive);
    let (layout, root) = (scratch.0.join("layout"), scratch.0.join("root"));
    tar::Archive::new(fs::File::open(&archive).unwrap())
        .unpack(&layout)
        .unwrap();

    assert_eq!(
        json(&layout.join("oci-layout"))["imageLayoutVersion"],
        "1.0.0"
    );
    let listed = &json(&layout.join("index.json"))["manifests"][0];
    let name = listed["annotations"]["io.containerd.image.name"].clone();
    assert_eq!(
        name,
        format!("docker.io/library/tortie:{}", env!("CARGO_PKG_VERSION"))
    );
    let manifest = json(&blob(&layout, listed));
    let config = json(&blob(&layout, &manifest["config"]));
    let layer = blob(&layout, &manifest["layers"][0]);
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let saved = &json(&layout.join("manifest.json"))[0];
    assert_eq!(saved["RepoTags"][0], name);
    assert_eq!(layout.join(saved["Layers"][0].as_str().unwrap()), layer);

    let tar = scratch.0.join("layer.tar");
    std::io::copy(
        &mut GzDecoder::new(fs::File::open(&layer).unwrap()),
        &mut fs::File::create(&tar).unwrap(),
    )
    .unwrap();
    assert_eq!(
        config["rootfs"]["diff_ids"][0],
        format!("sha256:{}", sum(&tar))
    );
    tar::Archive::new(fs::File::open(&tar).unwrap())
        .unpack(&root)
        .unwrap();
    fs::create_dir(root.join("proc")).unwrap();

    let allowed = in_root(&root, &["/bin/tortie-node", "--version"]);
    let refusal = String::from_utf8_lossy(&allowed.stderr).into_owned();
    if refusal.starts_with("unshare: ") {
        harness::skip("namespaces", refusal.trim());
    }
    let entrypoint = config["config"]["Entrypoint"][0].as_str().unwrap();
    for words in [
        &[entrypoint, "--version"][..],
        &["calico-node", "--version"],
        &["calico", "--version"],
        &["tortiectl", "version", "--client"],
        &["calicoctl", "version", "--client"],
        &["tortie-rr", "--version"],
        &["/opt/cni/bin/calico", "-v"],
        &["/opt/cni/bin/calico-ipam", "-v"],
    ] {
        let output = in_root(&root, words);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains(env!("CARGO_PKG_VERSION")),
            "{words:?}: {output:?}"
        );
    }

    for directory in ["host/opt/cni/bin", "host/etc/cni/net.d"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let output = in_root(&root, &["/opt/cni/bin/install"]);
    assert!(output.status.success(), "{output:?}");
    let installed = root.join("host/opt/cni/bin/calico");
    assert_eq!(
        fs::metadata(&installed).unwrap().permissions().mode() & 0o777,
        0o755
    );
    assert_eq!(sum(&installed), sum(&root.join("opt/cni/bin/tortie-cni")));
    assert!(root.join("host/etc/cni/net.d/10-calico.conflist").is_file());
    assert!(!root.join("host/opt/cni/bin/install").exists());
}

#[test]
fn the_same_programs_give_the_same_image() {
    let scratch = Scratch::new("twice");
    let archives = ["one.tar", "two.tar"].map(|name| scratch.0.join(name));
    for archive in &archives {
        make(archive);
    }
    assert_eq!(sum(&archives[0]), sum(&archives[1]));
}

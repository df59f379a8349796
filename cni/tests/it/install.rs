//! Install mode of the real program, below a root directory of the test's own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use cni::protocol::Reply;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::agent::{Call, Scratch, Script, serve_one};

const NAMES: [&str; 3] = ["calico", "calico-ipam", "tortie-cni"];

/// A host's directories and a service account, below one root.
struct Host {
    scratch: Scratch,
}

impl Host {
    fn new() -> Self {
        let scratch = Scratch::new();
        for directory in ["host/opt/cni/bin", "host/etc/cni/net.d"] {
            fs::create_dir_all(scratch.path(directory)).expect("a directory can be made");
        }
        Self { scratch }
    }

    fn with_service_account(self) -> Self {
        let directory = self
            .scratch
            .path("var/run/secrets/kubernetes.io/serviceaccount");
        fs::create_dir_all(&directory).expect("a directory can be made");
        fs::write(directory.join("token"), "t0ken\n").expect("writable");
        fs::write(directory.join("ca.crt"), "authority").expect("writable");
        self
    }

    fn bin(&self, name: &str) -> PathBuf {
        self.scratch.path("host/opt/cni/bin").join(name)
    }

    fn net(&self, name: &str) -> PathBuf {
        self.scratch.path("host/etc/cni/net.d").join(name)
    }

    fn list(&self) -> Value {
        let text = fs::read(self.net("10-calico.conflist")).expect("it was written");
        serde_json::from_slice(&text).expect("it is JSON")
    }

    fn command(&self, program: &Path, word: &str, variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(program);
        command
            .arg(word)
            .arg("--root")
            .arg(self.scratch.path(""))
            .env_clear()
            .env("SLEEP", "false")
            .env("KUBERNETES_NODE_NAME", "node-a")
            .envs(variables.iter().copied());
        command
    }

    fn run(&self, word: &str, variables: &[(&str, &str)]) -> Output {
        let program = Path::new(env!("CARGO_BIN_EXE_tortie-cni"));
        self.command(program, word, variables)
            .output()
            .expect("the program starts")
    }

    #[track_caller]
    fn installed(&self, variables: &[(&str, &str)]) -> String {
        let output = self.run("install", variables);
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        said
    }

    #[track_caller]
    fn refused(&self, variables: &[(&str, &str)]) -> String {
        let output = self.run("install", variables);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        said(&output)
    }

    fn is_untouched(&self) -> bool {
        let entries = |path| fs::read_dir(path).expect("it is there").count();
        entries(self.bin("")) + entries(self.net("")) == 0
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn mode(path: &Path) -> u32 {
    let file = fs::symlink_metadata(path).expect("it is there");
    assert!(file.is_file(), "{} is no plain file", path.display());
    file.permissions().mode() & 0o7777
}

#[test]
fn plugin_and_configuration_are_put_in_place_and_a_second_run_changes_nothing() {
    let host = Host::new();
    let said = host.installed(&[]);
    let program = fs::read(env!("CARGO_BIN_EXE_tortie-cni")).expect("readable");
    for name in NAMES {
        assert_eq!(mode(&host.bin(name)), 0o755);
        assert!(
            fs::read(host.bin(name)).expect("readable") == program,
            "{name}"
        );
    }
    assert_eq!(mode(&host.net("10-calico.conflist")), 0o600);
    let list = host.list();
    assert_eq!(list["name"], "k8s-pod-network");
    assert_eq!(list["plugins"][0]["nodename"], "node-a");
    assert_eq!(list["plugins"][0]["mtu"], 0);
    assert_eq!(list["plugins"][1]["type"], "portmap");
    assert!(
        said.contains("\"portmap\"") && said.contains("will not start"),
        "a plugin that is missing on the host is told: {said}"
    );
    assert!(
        !host.net("calico-kubeconfig").exists(),
        "no token is put on the host for a configuration that names none"
    );

    let paths = || {
        NAMES
            .map(|name| host.bin(name))
            .into_iter()
            .chain([host.net("10-calico.conflist")])
    };
    let inodes = || -> Vec<u64> {
        let inode = |path: PathBuf| fs::metadata(path).expect("it is there").ino();
        paths().map(inode).collect()
    };
    let before = inodes();
    host.installed(&[]);
    assert_eq!(inodes(), before);
}

#[test]
fn every_placeholder_has_its_value() {
    let host = Host::new().with_service_account();
    let secrets = host.scratch.path("calico-secrets");
    fs::create_dir_all(&secrets).expect("a directory can be made");
    fs::write(secrets.join("etcd-key"), "key").expect("writable");
    let cases = [
        ("__LOG_LEVEL__", "LOG_LEVEL", "debug", "info"),
        (
            "__LOG_FILE_PATH__",
            "LOG_FILE_PATH",
            "/l",
            "/var/log/calico/cni/cni.log",
        ),
        ("__LOG_FILE_MAX_SIZE__", "LOG_FILE_MAX_SIZE", "1", "100"),
        ("__LOG_FILE_MAX_AGE__", "LOG_FILE_MAX_AGE", "2", "30"),
        ("__LOG_FILE_MAX_COUNT__", "LOG_FILE_MAX_COUNT", "3", "10"),
        (
            "__DATASTORE_TYPE__",
            "DATASTORE_TYPE",
            "etcdv3",
            "kubernetes",
        ),
        (
            "__KUBERNETES_NODE_NAME__",
            "KUBERNETES_NODE_NAME",
            "q\"uote",
            "node-a",
        ),
        (
            "__KUBECONFIG_FILEPATH__",
            "CNI_NET_DIR",
            "/n",
            "/etc/cni/net.d",
        ),
        ("__CNI_MTU__", "CNI_MTU", "1450", "0"),
        (
            "__KUBERNETES_SERVICE_HOST__",
            "KUBERNETES_SERVICE_HOST",
            "10.96.0.2",
            "10.96.0.1",
        ),
        (
            "__KUBERNETES_SERVICE_PORT__",
            "KUBERNETES_SERVICE_PORT",
            "6443",
            "443",
        ),
        ("__SERVICEACCOUNT_TOKEN__", "", "t0ken", "t0ken"),
        (
            "__CALICO_API_GROUP__",
            "CALICO_API_GROUP",
            "projectcalico.org/v3",
            "crd.projectcalico.org/v1",
        ),
        ("__REQUIRE_MTU_FILE__", "REQUIRE_MTU_FILE", "true", "false"),
        ("__ETCD_ENDPOINTS__", "ETCD_ENDPOINTS", "https://e", ""),
        (
            "__ETCD_DISCOVERY_SRV__",
            "ETCD_DISCOVERY_SRV",
            "e.example",
            "",
        ),
        (
            "__ETCD_KEY_FILE__",
            "CNI_CONF_ETCD_KEY",
            "/k",
            "/etc/cni/net.d/calico-tls/etcd-key",
        ),
        ("__ETCD_CERT_FILE__", "CNI_CONF_ETCD_CERT", "/c", ""),
        ("__ETCD_CA_CERT_FILE__", "CNI_CONF_ETCD_CA", "/a", ""),
    ];
    let texts: serde_json::Map<String, Value> = cases
        .iter()
        .map(|(placeholder, ..)| (placeholder.trim_matches('_').to_owned(), json!(placeholder)))
        .collect();
    let template = json!({
        "name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "other", "texts": texts}],
    });
    let template = template.to_string();
    let base = [
        ("CNI_NETWORK_CONFIG", template.as_str()),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
    ];
    let check = |given: bool| {
        let list = host.list();
        for (placeholder, _, value, default) in cases {
            let expected = match (placeholder, given) {
                ("__KUBECONFIG_FILEPATH__", true) => "/n/calico-kubeconfig".to_owned(),
                ("__KUBECONFIG_FILEPATH__", false) => format!("{default}/calico-kubeconfig"),
                (_, true) => value.to_owned(),
                (_, false) => default.to_owned(),
            };
            let name = placeholder.trim_matches('_');
            assert_eq!(list["plugins"][0]["texts"][name], expected, "{placeholder}");
        }
    };
    host.installed(&base);
    check(false);
    assert_eq!(mode(&host.net("calico-tls/etcd-key")), 0o600);
    let given = cases
        .iter()
        .filter(|(_, variable, ..)| !variable.is_empty())
        .map(|(_, variable, value, _)| (*variable, *value));
    let given: Vec<_> = base.into_iter().chain(given).collect();
    host.installed(&given);
    check(true);
}

#[test]
fn all_wrong_variables_are_named_at_once_and_nothing_is_written() {
    let host = Host::new();
    let wrong = [
        ("SLEEP", "perhaps"),
        ("UPDATE_CNI_BINARIES", "yes"),
        ("CNI_CONF_NAME", "10-calico.txt"),
        ("CNI_OLD_CONF_NAME", "../x"),
        ("CNI_NET_DIR", "net.d"),
        ("CNI_MTU", "big"),
        ("TEST_FILE_PERMISSION", "0999"),
    ];
    let said = host.refused(&wrong);
    for (variable, value) in wrong {
        assert!(
            said.contains(&format!("{variable}: \"{value}\"; allowed: ")),
            "{variable}: {said}"
        );
    }
    assert!(host.is_untouched());
}

#[test]
fn a_configuration_that_would_not_work_is_refused_before_anything_is_written() {
    let host = Host::new();
    let cases = [
        ("{\"name\":", "no JSON"),
        (
            "{\"name\":\"n\",\"cniVersion\":\"1.0.0\"}",
            "plugins: required",
        ),
        (
            "{\"name\":\"n\",\"cniVersion\":\"1.0.0\",\"plugins\":[]}",
            "plugins: []",
        ),
        (
            "{\"name\":\"n\",\"cniVersion\":\"9.0.0\",\"plugins\":[{\"type\":\"x\"}]}",
            "9.0.0",
        ),
        (
            "{\"name\":\"n\",\"cniVersion\":\"1.0.0\",\"plugins\":[{\"mtu\":1}]}",
            "plugins[0]",
        ),
        (
            "{\"name\":\"n\",\"cniVersion\":\"1.0.0\",\"plugins\":[{\"type\":\"x\"},{\"type\":\"calico\",\"ipam\":{\"type\":\"a/b\"}}]}",
            "plugins[1] of type \"calico\": ipam.type: \"a/b\"",
        ),
        (
            "{\"name\":\"n\",\"cniVersion\":\"1.0.0\",\"plugins\":[{\"type\":\"x\",\"kubeconfig\":\"__KUBECONFIG_FILEPATH__\"}]}",
            "KUBERNETES_SERVICE_HOST is not set",
        ),
    ];
    for (template, expected) in cases {
        let said = host.refused(&[("CNI_NETWORK_CONFIG", template)]);
        assert!(said.contains(expected), "{expected:?} is not in {said}");
        assert!(host.is_untouched(), "{template}");
    }
    let said = host.refused(&[("CNI_NETWORK_CONFIG_FILE", "/none.json")]);
    assert!(said.contains("/none.json"), "{said}");
    fs::remove_dir(host.bin("")).expect("it is empty");
    let said = host.refused(&[]);
    assert!(
        said.contains("host/opt/cni/bin is not there; mount"),
        "{said}"
    );
    assert!(!host.net("10-calico.conflist").exists());
}

#[test]
fn a_template_file_goes_before_the_text_and_one_plugin_goes_into_a_conf() {
    let host = Host::new();
    let file = host.scratch.path("template");
    fs::write(
        &file,
        "{\"name\":\"one\",\"cniVersion\":\"1.0.0\",\"type\":\"ptp\"}",
    )
    .expect("writable");
    host.installed(&[
        ("CNI_NETWORK_CONFIG", "not looked at"),
        ("CNI_NETWORK_CONFIG_FILE", "/template"),
        ("CNI_CONF_NAME", "05-one.conf"),
        ("TEST_FILE_PERMISSION", "0644"),
    ]);
    assert_eq!(mode(&host.net("05-one.conf")), 0o644);
    let said = host.refused(&[
        ("CNI_NETWORK_CONFIG_FILE", "/template"),
        ("CNI_CONF_NAME", "05-one.conflist"),
    ]);
    assert!(said.contains("plugins: required"), "{said}");
}

#[test]
fn a_configuration_that_names_a_kubeconfig_gets_one() {
    let host = Host::new().with_service_account();
    let template = "{\"name\":\"n\",\"cniVersion\":\"1.0.0\",\"plugins\":[{\"type\":\"calico\",
        \"ipam\":{\"type\":\"calico-ipam\"},\"kubernetes\":{\"kubeconfig\":\"__KUBECONFIG_FILEPATH__\"}}]}";
    let variables = [
        ("CNI_NETWORK_CONFIG", template),
        ("KUBERNETES_SERVICE_HOST", "fd00::1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
    ];
    let kubeconfig = || -> Value {
        let text = fs::read(host.net("calico-kubeconfig")).expect("it was written");
        serde_json::from_slice(&text).expect("YAML, and JSON too")
    };
    host.installed(&variables);
    assert_eq!(mode(&host.net("calico-kubeconfig")), 0o600);
    let config = kubeconfig();
    assert_eq!(
        config["clusters"][0]["cluster"]["server"],
        "https://[fd00::1]:443"
    );
    // base64 of "authority", by the coreutils.
    assert_eq!(
        config["clusters"][0]["cluster"]["certificate-authority-data"],
        "YXV0aG9yaXR5"
    );
    assert_eq!(config["users"][0]["user"]["token"], "t0ken");
    host.installed(&[&variables[..], &[("SKIP_TLS_VERIFY", "true")]].concat());
    let config = kubeconfig();
    assert_eq!(
        config["clusters"][0]["cluster"]["insecure-skip-tls-verify"],
        true
    );
}

#[test]
fn plugins_of_the_image_are_installed_unless_they_are_left_out_or_kept() {
    let host = Host::new();
    let image = host.scratch.path("opt/cni/bin");
    fs::create_dir_all(&image).expect("a directory can be made");
    // A link: a copy that another test's child has open for writing cannot be started.
    fs::hard_link(env!("CARGO_BIN_EXE_tortie-cni"), image.join("tortie-cni"))
        .expect("one file system");
    symlink("tortie-cni", image.join("install")).expect("a link can be made");
    for name in ["portmap", "bandwidth"] {
        fs::write(image.join(name), name).expect("writable");
    }
    fs::write(host.bin("bandwidth"), "the host's").expect("writable");
    let secondary = host.scratch.path("host/secondary-bin-dir");
    fs::create_dir_all(&secondary).expect("a directory can be made");
    let run = |variables: &[(&str, &str)]| {
        let mut command = Command::new(image.join("install"));
        let output = command
            .args(["--root"])
            .arg(host.scratch.path(""))
            .env_clear()
            .env("SLEEP", "false")
            .envs(variables.iter().copied())
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{}", said(&output));
    };
    let text = |path: PathBuf| fs::read_to_string(path).expect("readable");
    run(&[
        ("SKIP_CNI_BINARIES", "portmap, calico-ipam"),
        ("UPDATE_CNI_BINARIES", "false"),
    ]);
    assert!(!host.bin("portmap").exists() && !host.bin("calico-ipam").exists());
    assert!(!host.bin("install").exists(), "the installer is no plugin");
    assert_eq!(text(host.bin("bandwidth")), "the host's");
    run(&[]);
    assert_eq!(text(host.bin("portmap")), "portmap");
    assert_eq!(text(host.bin("bandwidth")), "bandwidth");
    assert_eq!(mode(&host.bin("portmap")), 0o755);
    assert_eq!(text(secondary.join("portmap")), "portmap");
}

#[test]
fn what_an_earlier_installer_left_is_taken_away_or_told() {
    let host = Host::new();
    for name in [
        "05-other.conflist",
        "10-calico.conflist",
        ".20-tortie.conflist.tmp",
        "notes.txt",
    ] {
        fs::write(host.net(name), "{").expect("writable");
    }
    let said = host.installed(&[("CNI_CONF_NAME", "20-tortie.conflist")]);
    assert!(
        !host.net("10-calico.conflist").exists(),
        "CNI_OLD_CONF_NAME's default"
    );
    assert!(!host.net(".20-tortie.conflist.tmp").exists());
    assert!(
        said.contains("05-other.conflist comes before 20-tortie.conflist"),
        "{said}"
    );
    assert!(!said.contains("notes.txt"), "{said}");
}

#[test]
fn uninstall_takes_away_what_is_ours_and_leaves_what_is_not() {
    let host = Host::new();
    host.installed(&[]);
    fs::write(host.net("calico-kubeconfig"), "").expect("writable");
    fs::write(host.bin("portmap"), "portmap").expect("writable");
    fs::remove_file(host.bin("calico-ipam")).expect("it is there");
    fs::write(host.bin("calico-ipam"), "another project's").expect("writable");
    let output = host.run("uninstall", &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(!host.bin("calico").exists() && !host.bin("tortie-cni").exists());
    assert!(host.bin("calico-ipam").exists() && host.bin("portmap").exists());
    assert_eq!(fs::read_dir(host.net("")).expect("it is there").count(), 0);
    assert!(said(&host.run("uninstall", &[])).contains("calico-ipam: it is another plugin"));
}

/// An installer that stays, and its lines as they come.
struct Staying {
    child: std::process::Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Staying {
    fn start(host: &Host, variables: &[(&str, &str)]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_tortie-cni"));
        let mut child = host
            .command(program, "install", &[variables, &[("SLEEP", "")]].concat())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = child.stderr.take().expect("piped");
        let lines = BufReader::new(stderr).lines();
        let mut staying = Self { child, lines };
        staying.says("staying until SIGTERM");
        staying
    }

    /// Reads its lines up to one that has these words.
    #[track_caller]
    fn says(&mut self, words: &str) {
        let mut lines = self.lines.by_ref().map_while(Result::ok);
        assert!(lines.any(|line| line.contains(words)), "{words}");
    }

    /// Ends it; what it said since.
    fn end(mut self) -> Vec<String> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("it runs");
        assert!(self.child.wait().expect("it ends").success());
        self.lines.map_while(Result::ok).collect()
    }
}

#[test]
fn it_stays_until_it_is_told_to_end() {
    let said = Staying::start(&Host::new(), &[]).end();
    assert!(said.is_empty(), "{said:?}");
}

/// Files of a mounted Secret: links through a link that is replaced whenever they change, as kubelet does it.
fn mount(directory: &Path, generation: u32, files: &[(&str, &str)]) {
    let data = directory.join(format!("..{generation}"));
    fs::create_dir_all(&data).expect("a directory can be made");
    for (name, text) in files {
        fs::write(data.join(name), text).expect("writable");
        // There since the first time.
        let _ = symlink(Path::new("..data").join(name), directory.join(name));
    }
    let fresh = directory.join("..data_tmp");
    symlink(data.file_name().expect("given"), &fresh).expect("a link can be made");
    fs::rename(fresh, directory.join("..data")).expect("it can be renamed");
}

#[test]
fn while_it_stays_new_tokens_authorities_and_tls_assets_go_to_the_host() {
    let host = Host::new();
    let account = host
        .scratch
        .path("var/run/secrets/kubernetes.io/serviceaccount");
    let assets = host.scratch.path("calico-secrets");
    mount(&account, 1, &[("token", "first"), ("ca.crt", "authority")]);
    mount(
        &assets,
        1,
        &[("etcd-key", "key 1"), ("etcd-cert", "certificate 1")],
    );
    let template = "{\"name\":\"n\",\"cniVersion\":\"1.0.0\",\"plugins\":[{\"type\":\"calico\",
        \"ipam\":{\"type\":\"calico-ipam\"},\"kubernetes\":{\"kubeconfig\":\"__KUBECONFIG_FILEPATH__\"},
        \"policy\":{\"k8s_auth_token\":\"__SERVICEACCOUNT_TOKEN__\"}}]}";
    let variables = [
        ("CNI_NETWORK_CONFIG", template),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
    ];
    let mut staying = Staying::start(&host, &variables);
    let kubeconfig = || -> Value {
        let text = fs::read(host.net("calico-kubeconfig")).expect("it was written");
        serde_json::from_slice(&text).expect("YAML, and JSON too")
    };
    let token = || kubeconfig()["users"][0]["user"]["token"].clone();
    let key = || fs::read_to_string(host.net("calico-tls/etcd-key")).expect("readable");
    assert_eq!((token(), key()), (json!("first"), "key 1".to_owned()));

    mount(&account, 2, &[("token", "second"), ("ca.crt", "another")]);
    staying.says("wrote ");
    staying.says("10-calico.conflist");
    assert_eq!(token(), "second");
    // base64 of "another", by the coreutils.
    let authority = &kubeconfig()["clusters"][0]["cluster"]["certificate-authority-data"];
    assert_eq!(authority, "YW5vdGhlcg==");
    let list = host.list();
    assert_eq!(list["plugins"][0]["policy"]["k8s_auth_token"], "second");
    assert_eq!(mode(&host.net("calico-kubeconfig")), 0o600);

    mount(
        &assets,
        2,
        &[("etcd-key", "key 2"), ("etcd-cert", "certificate 1")],
    );
    staying.says("calico-tls/etcd-key");
    assert_eq!(key(), "key 2");

    // A token that is away is no reason to take the last one from the host.
    fs::remove_file(account.join("token")).expect("it is there");
    staying.says("the pod has no service account token");
    assert_eq!(token(), "second");
    symlink("..data/token", account.join("token")).expect("a link can be made");
    mount(&account, 3, &[("token", "third"), ("ca.crt", "another")]);
    staying.says("10-calico.conflist");
    assert_eq!(token(), "third");
    let said = staying.end();
    assert!(said.is_empty(), "{said:?}");
}

/// Two releases take turns while a runtime reads the configuration and starts the plugin again and again, and a call of
/// the first release waits for the agent all the while.
#[test]
fn an_upgrade_disturbs_no_pod_that_starts_meanwhile() {
    let host = Host::new();
    let releases = ["one", "two"].map(|release| {
        let directory = host.scratch.path(release);
        fs::create_dir_all(&directory).expect("a directory can be made");
        let path = directory.join("tortie-cni");
        // By a child, so that no other test's child can have it open for writing.
        let copied = Command::new("sh")
            .args(["-c", "cp \"$0\" \"$1\" && printf %s \"$2\" >>\"$1\""])
            .args([
                Path::new(env!("CARGO_BIN_EXE_tortie-cni")),
                &path,
                Path::new(release),
            ])
            .status()
            .expect("sh starts");
        assert!(copied.success());
        path
    });
    let install = |release: &Path, mtu: &str| {
        let output = host
            .command(release, "install", &[("CNI_MTU", mtu)])
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{}", said(&output));
    };
    install(&releases[0], "1400");
    let socket = host.scratch.path("agent.sock");
    let agent = serve_one(&socket, Script::reply(&Reply::Done));
    let ended = AtomicBool::new(false);
    let (reads, calls) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut count = 0;
            while !ended.load(Ordering::Relaxed) {
                let mtu = &host.list()["plugins"][0]["mtu"];
                assert!(*mtu == 1400 || *mtu == 9000, "{mtu}");
                count += 1;
            }
            count
        });
        let runtime = scope.spawn(|| {
            let mut count = 0;
            while !ended.load(Ordering::Relaxed) {
                let call = Call::new("VERSION", &socket).program(&host.bin("calico"));
                assert_eq!(call.run().exit_code, 0);
                count += 1;
            }
            count
        });
        for round in 0..20 {
            let (release, mtu) = if round % 2 == 0 {
                (1, "9000")
            } else {
                (0, "1400")
            };
            install(&releases[release], mtu);
            assert!(
                fs::read(host.bin("calico")).expect("readable")
                    == fs::read(&releases[release]).expect("readable")
            );
        }
        ended.store(true, Ordering::Relaxed);
        (
            reader.join().expect("each read is whole"),
            runtime.join().expect("each call succeeds"),
        )
    });
    assert!(reads > 0 && calls > 0, "{reads} reads, {calls} calls");
    let call = Call::new("DEL", &socket).program(&host.bin("calico"));
    assert_eq!(call.run().exit_code, 0);
    agent.join().expect("the agent saw a request");
}

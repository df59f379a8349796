//! Stands for other plugins; which one, its name says.
//!
//! - `recording-ipam` gives the address `ipam.address` with `ipam.gateway` and `ipam.routes`, and writes each call into the file `ipam.record`.
//! - `killed-<call>-<n>` runs `calico` and kills it (SIGKILL) at its n-th system call of this name; `traced` runs it to its end. The
//!   calls it made stand in `/run/traced`.
//! - `broken-<fault>` runs the plugin `wraps` of its configuration, and breaks one point of the specification.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, anyhow};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let name = std::env::args().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let done = if let Some(fault) = name.strip_prefix("broken-") {
        broken(fault)
    } else if name == "traced" {
        traced(None)
    } else if let Some(call) = name.strip_prefix("killed-") {
        traced(call.split_once('-'))
    } else {
        recording()
    };
    let (stdout, code) = done.unwrap_or_else(|error| {
        let msg = format!("{error:#}");
        let error = json!({"cniVersion": "1.0.0", "code": 999, "msg": msg});
        (error.to_string(), 1)
    });
    print!("{stdout}");
    ExitCode::from(code)
}

/// Standard output and exit code.
type Answer = (String, u8);

const NOTHING: Answer = (String::new(), 0);

fn refused(code: u32) -> Answer {
    let error = json!({"cniVersion": "1.0.0", "code": code, "msg": "as the stand-in has it"});
    (error.to_string(), 1)
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn read_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

fn recording() -> anyhow::Result<Answer> {
    let configuration: Value = serde_json::from_str(&read_stdin()?)?;
    let command = variable("CNI_COMMAND");
    let names = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"];
    let variables: BTreeMap<&str, String> = names
        .into_iter()
        .map(|name| (name, variable(name)))
        .collect();
    let call = json!({"command": command, "variables": variables, "configuration": configuration});
    let record = configuration["ipam"]["record"].as_str();
    let record = record.ok_or_else(|| anyhow!("ipam.record is missing"))?;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(record)
        .with_context(|| record.to_owned())?;
    writeln!(file, "{call}")?;
    if command != "ADD" {
        return Ok(NOTHING);
    }
    let version = configuration["cniVersion"].as_str().unwrap_or("0.1.0");
    let address = &configuration["ipam"]["address"];
    let mut entry = json!({"address": address, "gateway": configuration["ipam"]["gateway"]});
    if version.starts_with('0') {
        entry["version"] = json!("4");
    }
    let mut result = json!({"cniVersion": version, "ips": [entry]});
    if !configuration["ipam"]["routes"].is_null() {
        result["routes"] = configuration["ipam"]["routes"].clone();
    }
    Ok((result.to_string(), 0))
}

fn traced(killed_at: Option<(&str, &str)>) -> anyhow::Result<Answer> {
    let mut command = Command::new("strace");
    command.arg("--output=/run/traced");
    if let Some((call, number)) = killed_at {
        command.arg(format!("--inject={call}:signal=KILL:when={number}"));
    }
    let output = command
        .arg(program("calico")?)
        .stdin(Stdio::inherit())
        .output()?;
    let code = u8::from(!output.status.success());
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), code))
}

fn broken(fault: &str) -> anyhow::Result<Answer> {
    let stdin = read_stdin()?;
    let command = variable("CNI_COMMAND");
    let sane: Option<Value> = serde_json::from_str(&stdin).ok();
    // A configuration that cannot be read names no plugin to wrap: what every plugin says then.
    let Some(mut object) = sane.filter(Value::is_object) else {
        return Ok(match fault {
            "reads-anything" => ("{}".to_owned(), 0),
            _ => refused(6),
        });
    };
    if fault == "version-needs-a-container"
        && command == "VERSION"
        && variable("CNI_CONTAINERID").is_empty()
    {
        return Ok(refused(4));
    }
    // VERSION's input has no more than a version.
    let wraps = object["wraps"].as_str().unwrap_or("calico").to_owned();
    object["type"] = json!(wraps);
    let call = Call {
        program: program(&wraps)?,
        object,
        variables: BTreeMap::new(),
    };
    match command.as_str() {
        "ADD" => adds(fault, call),
        "DEL" => deletes(fault, call),
        "CHECK" => checks(fault, call),
        _ => others(fault, &command, call),
    }
}

/// In CNI_PATH, or, since VERSION is called without, beside this one.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = variable("CNI_PATH");
    let mut folders = path.split(':').map(|folder| Path::new(folder).join(name));
    let beside = std::env::args().next();
    let beside = beside.map(|own| Path::new(&own).with_file_name(name));
    folders
        .find(|program| program.exists())
        .or(beside)
        .ok_or_else(|| anyhow!("no plugin {name} in {path}"))
}

/// A call of the wrapped plugin.
struct Call {
    program: PathBuf,
    object: Value,
    variables: BTreeMap<&'static str, String>,
}

impl Call {
    fn run(&self) -> anyhow::Result<Answer> {
        let mut child = Command::new(&self.program)
            .envs(&self.variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(self.object.to_string().as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let code = u8::from(!output.status.success());
        Ok((String::from_utf8_lossy(&output.stdout).into_owned(), code))
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.insert(name, value.to_owned());
        self
    }

    fn having(mut self, key: &str, value: Value) -> Self {
        self.object[key] = value;
        self
    }

    /// Changes the result of an ADD that succeeded.
    fn changed(&self, change: impl FnOnce(&mut Value)) -> anyhow::Result<Answer> {
        let (stdout, code) = self.run()?;
        if code != 0 {
            return Ok((stdout, code));
        }
        let mut result: Value = serde_json::from_str(&stdout)?;
        change(&mut result);
        Ok((result.to_string(), 0))
    }
}

/// A command inside the container.
fn inside(words: &[&str]) -> anyhow::Result<String> {
    let netns = format!("--net={}", variable("CNI_NETNS"));
    let output = Command::new("nsenter").arg(netns).args(words).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether an earlier call has been here for the same container.
fn been_here() -> anyhow::Result<bool> {
    let path = format!("/run/stand-in-{}", variable("CNI_CONTAINERID"));
    let there = Path::new(&path).exists();
    std::fs::write(path, "")?;
    Ok(there)
}

fn adds(fault: &str, call: Call) -> anyhow::Result<Answer> {
    let ifname = variable("CNI_IFNAME");
    let previous = !call.object["prevResult"].is_null();
    match fault {
        "takes-a-default-interface" if ifname.is_empty() => call.with("CNI_IFNAME", "eth0").run(),
        "takes-any-container-id" if variable("CNI_CONTAINERID").starts_with('-') => {
            call.with("CNI_CONTAINERID", "a").run()
        }
        "refuses-unknown-args" if variable("CNI_ARGS").contains("SomebodysKey") => Ok(refused(4)),
        "refuses-unknown-keys" if !call.object["args"].is_null() => Ok(refused(2)),
        "takes-any-name" => call.having("name", json!("any")).run(),
        "takes-any-version" if call.object["cniVersion"] == "9.0.0" => {
            call.having("cniVersion", json!("1.0.0")).run()
        }
        "talks" => {
            let (stdout, code) = call.run()?;
            Ok((format!("adding {ifname}\n{stdout}"), code))
        }
        "invents-a-mac" => call.changed(|result| {
            result["interfaces"][1]["mac"] = json!("02:00:00:00:00:09");
        }),
        "knows-one-version" => call.changed(|result| {
            result["cniVersion"] = json!("1.0.0");
        }),
        "overwrites" => {
            inside(&["ip", "link", "delete", &ifname])?;
            call.run()
        }
        "knows-one-interface" if ifname != "eth0" => Ok(refused(7)),
        "gives-one-address-to-all" => call.changed(|result| {
            result["ips"][0]["address"] = json!("192.168.0.1/32");
        }),
        "forgets-what-came-before" if previous => call.having("prevResult", Value::Null).run(),
        "hides-variables" => call.with("CNI_ARGS", "IgnoreUnknown=1").run(),
        "keeps-what-was-given" => {
            let answer = call.run()?;
            forget_all_but_adds(&call)?;
            Ok(answer)
        }
        _ => call.run(),
    }
}

fn forget_all_but_adds(call: &Call) -> anyhow::Result<()> {
    let Some(record) = call.object["ipam"]["record"].as_str() else {
        return Ok(());
    };
    let calls = std::fs::read_to_string(record)?;
    let is_add = |line: &&str| line.contains("\"command\":\"ADD\"");
    let adds = calls.lines().filter(is_add);
    let text: String = adds.map(|line| format!("{line}\n")).collect();
    Ok(std::fs::write(record, text)?)
}

fn deletes(fault: &str, call: Call) -> anyhow::Result<Answer> {
    let netns = variable("CNI_NETNS");
    match fault {
        "takes-a-default-interface" if variable("CNI_IFNAME").is_empty() => {
            call.with("CNI_IFNAME", "eth0").run()
        }
        "deletes-nothing" => Ok(NOTHING),
        "deletes-once" if been_here()? => Ok(refused(999)),
        "needs-a-namespace" if !Path::new(&netns).exists() => Ok(refused(8)),
        "needs-the-result" if call.object["prevResult"].is_null() => Ok(refused(7)),
        "keeps-addresses" => {
            inside(&["ip", "link", "delete", &variable("CNI_IFNAME")])?;
            Ok(NOTHING)
        }
        "deletes-everybody" => {
            for entry in std::fs::read_dir("/sys/class/net")? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name.starts_with("cali") {
                    let words = ["link", "delete", &name];
                    Command::new("ip").args(words).output()?;
                }
            }
            call.run()
        }
        "leaves-the-delegate" => without_delegate(call).run(),
        _ => call.run(),
    }
}

fn checks(fault: &str, call: Call) -> anyhow::Result<Answer> {
    match fault {
        "prints-ok" => Ok(("OK\n".to_owned(), 0)),
        "checks-nothing" => Ok(NOTHING),
        "allows-nothing-else" if inside(&["ip", "route"])?.lines().count() > 2 => Ok(refused(999)),
        "checks-in-any-version" => call.having("cniVersion", json!("1.0.0")).run(),
        "leaves-the-delegate" => without_delegate(call).run(),
        _ => call.run(),
    }
}

fn others(fault: &str, command: &str, call: Call) -> anyhow::Result<Answer> {
    match (fault, command) {
        ("prints-its-status", "STATUS") => Ok(("{\"ready\": true}".to_owned(), 0)),
        ("collects-nothing" | "collects-in-any-version", "GC" | "STATUS") => Ok(NOTHING),
        ("collects-everything", "GC") => call.having("cni.dev/valid-attachments", json!([])).run(),
        ("leaves-the-delegate", "GC" | "STATUS") => without_delegate(call).run(),
        ("takes-any-command", "TURN") => Ok(NOTHING),
        _ => call.run(),
    }
}

fn without_delegate(call: Call) -> Call {
    call.having("ipam", json!({"type": "calico-ipam"}))
}

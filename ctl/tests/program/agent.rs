//! What is asked of an agent, which the test plays.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use std::thread::JoinHandle;

use crate::support::{Directory, err, out};

/// An agent that hears `connections` and answers the last one; it gives back what that one asked.
fn answering(listener: UnixListener, answer: String, connections: usize) -> JoinHandle<String> {
    std::thread::spawn(move || {
        for _ in 1..connections {
            listener.accept().unwrap();
        }
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut octet = [0];
            stream.read_exact(&mut octet).unwrap();
            request.extend(octet);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    })
}

/// `tortiectl datastore accept` beside this folder's socket and note.
fn accept(directory: &Directory) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tortiectl"))
        .env_clear()
        .args(["datastore", "accept", "--socket"])
        .arg(directory.file("admin.sock"))
        .arg("--note")
        .arg(directory.file("note"))
        .output()
        .unwrap()
}

#[test]
fn a_datastore_is_accepted_by_the_agent_that_runs() {
    for (answer, accepted) in [
        ("HTTP/1.0 200 OK\r\n\r\naccepted\n", true),
        (
            "HTTP/1.0 409 Conflict\r\n\r\nthere is nothing to accept\n",
            false,
        ),
    ] {
        let directory = Directory::new("accept");
        std::fs::write(directory.file("note"), "one 5\n").unwrap();
        let listener = UnixListener::bind(directory.file("admin.sock")).unwrap();
        // It is asked first whether it is there.
        let agent = answering(listener, answer.to_owned(), 2);
        let output = accept(&directory);
        let asked = agent.join().unwrap();
        assert!(asked.starts_with("POST /datastore/accept "), "{asked}");
        assert_eq!(output.status.success(), accepted, "{}", err(&output));
        if !accepted {
            assert!(
                err(&output).contains("nothing to accept"),
                "{}",
                err(&output)
            );
        }
        assert!(directory.file("note").exists(), "it is the agent's");
    }
}

#[test]
fn a_datastore_is_accepted_for_the_agent_that_waits_to_start() {
    let directory = Directory::new("acceptstart");
    let note = directory.file("note");
    std::fs::write(&note, "one 5\n").unwrap();
    let output = accept(&directory);
    assert!(output.status.success(), "{}", err(&output));
    assert!(
        out(&output).contains("goes on starting"),
        "{}",
        out(&output)
    );
    assert!(!note.exists(), "that is what the agent waits for");
    // Nobody waits any more.
    let output = accept(&directory);
    assert_eq!(output.status.code(), Some(1));
    let note = note.display().to_string();
    assert!(err(&output).contains(&note), "{}", err(&output));
}

#[test]
fn bgp_peers_are_those_the_agent_reports() {
    let directory = Directory::new("agent");
    let socket = directory.file("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let peers = r#"[{"name":"Mesh_10_0_0_2","address":"10.0.0.2","asn":64512,
        "peerType":"node-to-node mesh","state":"Established","since":"2026-11-21T12:00:00Z",
        "prefixes":{"ipv4 unicast":{"received":3,"accepted":2,"advertised":1}},"later":true}]"#;
    let agent = answering(listener, format!("HTTP/1.0 200 OK\r\n\r\n{peers}"), 1);
    let output = Command::new(env!("CARGO_BIN_EXE_tortiectl"))
        .env_clear()
        .args(["bgp", "peers", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    assert!(agent.join().unwrap().starts_with("GET /bgp/peers "));
    let text = out(&output);
    let row = text.lines().nth(1).unwrap_or_default();
    for cell in ["Mesh_10_0_0_2", "10.0.0.2", "Established", "3", "2", "1"] {
        assert!(
            row.split_whitespace().any(|word| word == cell),
            "no {cell} in {text}"
        );
    }
}

#[test]
fn without_bgp_the_status_waits_for_no_routes_of_it() {
    let directory = Directory::new("nobgp");
    let socket = directory.file("admin.sock");
    for (backend, expected) in [
        ("vxlan", "no BGP (CALICO_NETWORKING_BACKEND=vxlan)."),
        ("bird", "BGP routes chosen: not yet."),
    ] {
        let listener = UnixListener::bind(&socket).unwrap();
        let status = format!(r#"{{"node":"n1","backend":"{backend}"}}"#);
        let answers = [status.as_str(), "[]", "[]"].map(str::to_owned);
        let agent = std::thread::spawn(move || {
            for answer in answers {
                let another = listener.try_clone().unwrap();
                answering(another, format!("HTTP/1.0 200 OK\r\n\r\n{answer}"), 1)
                    .join()
                    .unwrap();
            }
        });
        let output = Command::new(env!("CARGO_BIN_EXE_tortiectl"))
            .env_clear()
            .args(["node", "status", "--socket"])
            .arg(&socket)
            .output()
            .unwrap();
        agent.join().unwrap();
        std::fs::remove_file(&socket).unwrap();
        assert!(out(&output).contains(expected), "{}", out(&output));
    }
}

#[test]
fn agent_that_does_not_answer_is_named() {
    let directory = Directory::new("noagent");
    let output = Command::new(env!("CARGO_BIN_EXE_tortiectl"))
        .env_clear()
        .args(["node", "status", "--socket"])
        .arg(directory.file("admin.sock"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("Calico process is not running"),
        "{}",
        err(&output)
    );
}

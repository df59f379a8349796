//! What is asked of an agent, which the test plays.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Command;

use crate::support::{Directory, err, out};

#[test]
fn bgp_peers_are_those_the_agent_reports() {
    let directory = Directory::new("agent");
    let socket = directory.file("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let peers = r#"[{"name":"Mesh_10_0_0_2","address":"10.0.0.2","asn":64512,
        "peerType":"node-to-node mesh","state":"Established","since":"2026-11-21T12:00:00Z",
        "prefixes":{"ipv4 unicast":{"received":3,"accepted":2,"advertised":1}},"later":true}]"#;
    let agent = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut octet = [0];
            stream.read_exact(&mut octet).unwrap();
            request.extend(octet);
        }
        write!(stream, "HTTP/1.0 200 OK\r\n\r\n{peers}").unwrap();
        String::from_utf8(request).unwrap()
    });
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

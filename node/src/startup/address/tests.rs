use super::*;

struct Fake {
    interfaces: Vec<HostInterface>,
    source: Option<IpAddr>,
    internal: Option<Vec<IpAddr>>,
}

impl Host for Fake {
    fn interfaces(&self) -> &[HostInterface] {
        &self.interfaces
    }

    fn source_towards(&self, _: &str, _: Family) -> Option<IpAddr> {
        self.source
    }

    fn internal_ips(&self) -> Option<&[IpAddr]> {
        self.internal.as_deref()
    }
}

fn host() -> Fake {
    let interface = |ifindex, name: &str, addresses: &[&str]| HostInterface {
        name: name.to_owned(),
        ifindex,
        addresses: addresses.iter().map(|addr| addr.parse().unwrap()).collect(),
    };
    Fake {
        interfaces: vec![
            interface(1, "lo", &["127.0.0.1/8", "::1/128"]),
            interface(2, "eth0", &["10.10.1.11/24", "fe80::1/64", "fd00:1::11/64"]),
            interface(
                3,
                "eth1",
                &["169.254.3.3/16", "192.0.2.7/25", "192.0.2.8/25"],
            ),
            interface(4, "docker0", &["172.17.0.1/16"]),
            interface(5, "cali1234", &["169.254.1.1/32"]),
            interface(6, "vxlan.calico", &["192.168.7.0/32"]),
        ],
        source: None,
        internal: None,
    }
}

fn detect(method: &str) -> Option<String> {
    Method::parse(method)
        .unwrap()
        .detect(&host(), Family::V4)
        .map(|net| net.to_string())
}

#[test]
fn first_found_takes_the_highest_interface_that_is_not_excluded_and_skips_link_local() {
    assert_eq!(detect("").as_deref(), Some("192.0.2.7/25"));
    assert_eq!(detect("first-found").as_deref(), Some("192.0.2.7/25"));
    let six = Method::FirstFound.detect(&host(), Family::V6);
    assert_eq!(six, Some("fd00:1::11/64".parse().unwrap()));
}

#[test]
fn interface_ignores_the_default_exclusions_and_the_order_of_its_expressions() {
    assert_eq!(detect("interface=eth0").as_deref(), Some("10.10.1.11/24"));
    assert_eq!(
        detect("interface=docker.*").as_deref(),
        Some("172.17.0.1/16")
    );
    assert_eq!(
        detect("interface=eth0, eth1").as_deref(),
        Some("192.0.2.7/25")
    );
    assert_eq!(detect("interface=th0").as_deref(), Some("10.10.1.11/24"));
    assert_eq!(detect("interface=nothing"), None);
}

#[test]
fn skip_interface_adds_to_the_default_exclusions() {
    assert_eq!(
        detect("skip-interface=eth1").as_deref(),
        Some("10.10.1.11/24")
    );
    assert_eq!(detect("skip-interface=eth.*"), None);
}

#[test]
fn cidr_looks_at_every_interface() {
    assert_eq!(detect("cidr=192.0.2.8/32").as_deref(), Some("192.0.2.8/25"));
    assert_eq!(
        detect("cidr=198.51.100.0/24, 172.17.0.0/16").as_deref(),
        Some("172.17.0.1/16")
    );
}

#[test]
fn can_reach_takes_the_mask_of_the_interface_that_owns_the_source_address() {
    let mut host = host();
    host.source = Some("10.10.1.11".parse().unwrap());
    let method = Method::parse("can-reach=192.0.2.1").unwrap();
    assert_eq!(
        method.detect(&host, Family::V4),
        Some("10.10.1.11/24".parse().unwrap())
    );
    host.source = None;
    assert_eq!(method.detect(&host, Family::V4), None);
}

#[test]
fn an_address_that_stands_is_kept_while_the_method_allows_it() {
    let keep = |method: &str, addr: &str| {
        let method = Method::parse(method).unwrap();
        let kept = method.keep(&host(), addr.parse().unwrap());
        kept.map(|net| net.to_string())
    };
    // Detection would take 192.0.2.7 of the newer interface.
    assert_eq!(keep("", "10.10.1.11").as_deref(), Some("10.10.1.11/24"));
    assert_eq!(keep("", "192.0.2.8").as_deref(), Some("192.0.2.8/25"));
    let internal = keep("kubernetes-internal-ip", "10.10.1.11");
    assert_eq!(internal.as_deref(), Some("10.10.1.11/24"));
    assert_eq!(keep("", "10.10.1.99"), None, "it stands nowhere");
    assert_eq!(keep("", "172.17.0.1"), None, "excluded");
    assert_eq!(keep("interface=eth1", "10.10.1.11"), None);
    assert_eq!(keep("skip-interface=eth0", "10.10.1.11"), None);
    assert_eq!(keep("cidr=192.0.2.0/24", "10.10.1.11"), None);
    let allowed = keep("cidr=192.0.2.0/24,10.0.0.0/8", "10.10.1.11");
    assert_eq!(allowed.as_deref(), Some("10.10.1.11/24"));
    // The kernel decides, whatever was before.
    let mut host = host();
    host.source = Some("192.0.2.7".parse().unwrap());
    let method = Method::parse("can-reach=192.0.2.1").unwrap();
    assert_eq!(method.keep(&host, "10.10.1.11".parse().unwrap()), None);
    let reached = method.keep(&host, "192.0.2.7".parse().unwrap());
    assert_eq!(reached, Some("192.0.2.7/25".parse().unwrap()));
}

#[test]
fn bad_methods_say_what_is_allowed() {
    let error = |text: &str| Method::parse(text).unwrap_err().to_string();
    assert!(error("firstfound").contains("first-found"));
    assert!(error("Interface=eth0").contains("interface=REGEX"));
    assert!(error("interface=").contains("after the `=`"));
    assert!(error("interface=eth[").contains("eth["));
    assert!(error("cidr=10.0.0.0/33").contains("10.0.0.0/33"));
}

#[test]
fn literal_takes_the_local_mask_and_is_a_host_prefix_elsewhere() {
    let mask = |addr: &str| with_local_mask(&host(), addr.parse().unwrap()).to_string();
    assert_eq!(mask("10.10.1.11"), "10.10.1.11/24");
    assert_eq!(mask("10.10.1.12"), "10.10.1.12/32");
    assert_eq!(mask("fd00:1::12"), "fd00:1::12/128");
}

#[test]
fn listed_interfaces_leave_out_what_the_agent_and_container_runtimes_make() {
    let names: Vec<_> = listed_interfaces(&host(), &[Family::V4, Family::V6])
        .into_iter()
        .map(|interface| (interface.name, interface.addresses.len()))
        .collect();
    assert_eq!(names, [("eth0".to_owned(), 2), ("eth1".to_owned(), 2)]);
}

#[test]
fn kubernetes_internal_ip_takes_the_nodes_first_one_with_the_mask_of_its_interface() {
    let method = Method::parse("kubernetes-internal-ip").unwrap();
    let mut host = host();
    let detect = |host: &Fake, family| method.detect(host, family).map(|net| net.to_string());
    // Outside of Kubernetes as first-found.
    assert_eq!(detect(&host, Family::V4).as_deref(), Some("192.0.2.7/25"));
    let internal = |texts: &[&str]| Some(texts.iter().map(|text| text.parse().unwrap()).collect());
    host.internal = internal(&["fd00:1::11", "10.10.1.11", "192.0.2.7"]);
    assert_eq!(detect(&host, Family::V4).as_deref(), Some("10.10.1.11/24"));
    assert_eq!(detect(&host, Family::V6).as_deref(), Some("fd00:1::11/64"));
    host.internal = internal(&["203.0.113.9"]);
    assert_eq!(detect(&host, Family::V4).as_deref(), Some("203.0.113.9/32"));
    assert_eq!(detect(&host, Family::V6), None);
    host.internal = internal(&[]);
    assert_eq!(detect(&host, Family::V4), None);
}

#[test]
fn listed_addresses_are_of_the_nodes_families() {
    let listed = |families: &[Family]| {
        let interfaces = listed_interfaces(&host(), families);
        let of = |name| interfaces.iter().find(|one| one.name == name).cloned();
        of("eth0").map(|eth0| eth0.addresses.len())
    };
    assert_eq!(listed(&[Family::V4, Family::V6]), Some(2));
    assert_eq!(listed(&[Family::V4]), Some(1));
    assert_eq!(listed(&[]), None);
}

//! Which objects of a kind somebody asks for.

use api::key::{Key, Kind};

/// A part of the objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// All of them.
    All,
    /// Those of the node of this name: its Node, and the endpoints whose names begin with it. Kinds without a node in
    /// their names have none.
    Node(String),
}

impl Scope {
    /// Whether the object of this name belongs to it.
    pub fn holds(&self, key: &Key) -> bool {
        let Self::Node(node) = self else {
            return true;
        };
        match key.kind {
            Kind::Node => key.name == *node,
            // Parts are joined by single dashes; those inside a part are doubled.
            Kind::WorkloadEndpoint => key
                .name
                .strip_prefix(&node.replace('-', "--"))
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|rest| !rest.starts_with('-')),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use api::endpoint::endpoint_name;

    use super::*;

    #[test]
    fn a_nodes_endpoints_are_told_from_those_of_a_node_with_a_similar_name() {
        for (node, of, holds) in [
            ("a", "a", true),
            ("a", "a-b", false),
            ("a-b", "a", false),
            ("a-b", "a-b", true),
            ("a", "ab", false),
            ("a-", "a", false),
        ] {
            let name = endpoint_name(of, "k8s", "pod-0", "eth0");
            let key = Key::namespaced(Kind::WorkloadEndpoint, "default", name);
            assert_eq!(
                Scope::Node(node.to_owned()).holds(&key),
                holds,
                "{node} {of}"
            );
            assert!(Scope::All.holds(&key));
        }
        let scope = Scope::Node("n".to_owned());
        assert!(scope.holds(&Key::new(Kind::Node, "n")));
        assert!(!scope.holds(&Key::new(Kind::Node, "n2")));
        assert!(!scope.holds(&Key::new(Kind::IPPool, "n")));
    }
}

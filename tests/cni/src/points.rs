//! The specification as a table.

mod add;
mod calls;
mod check;
mod collect;
mod del;
mod delegation;

use crate::suite::Point;

const fn point(
    section: &'static str,
    since: &'static str,
    says: &'static str,
    check: fn(&crate::Room<'_>) -> anyhow::Result<()>,
) -> Point {
    Point {
        section,
        says,
        since,
        check,
    }
}

/// Every point, in the specification's order.
pub const POINTS: &[Point] = &[
    point(
        "2 Parameters",
        "0.1.0",
        "a missing variable is error 4",
        calls::missing_variables,
    ),
    point(
        "2 Parameters",
        "0.1.0",
        "a bad container id or interface name is error 4",
        calls::bad_names,
    ),
    point(
        "2 Parameters",
        "0.1.0",
        "CNI_ARGS with IgnoreUnknown may hold anything",
        calls::unknown_args,
    ),
    point(
        "2 Parameters",
        "0.1.0",
        "unknown keys of args and runtimeConfig are passed over",
        calls::unknown_keys,
    ),
    point(
        "2 Errors",
        "0.1.0",
        "a configuration that cannot be read is error 6",
        calls::no_json,
    ),
    point(
        "2 Errors",
        "0.1.0",
        "a configuration without a valid name is error 7",
        calls::bad_network_name,
    ),
    point(
        "2 Errors",
        "0.1.0",
        "a version that is not offered is error 1",
        calls::unknown_version,
    ),
    point(
        "2 VERSION",
        "0.2.0",
        "VERSION needs no other variable",
        calls::version,
    ),
    point(
        "2 ADD",
        "0.1.0",
        "ADD makes what its result says",
        add::result_is_the_kernels,
    ),
    point(
        "5 Result types",
        "0.1.0",
        "the result has the shape of the configuration's version",
        add::every_version,
    ),
    point(
        "2 ADD",
        "0.1.0",
        "ADD fails where the interface exists and leaves it alone",
        add::existing_interface,
    ),
    point(
        "2 ADD",
        "0.1.0",
        "a container may be added again with another interface name",
        add::second_interface,
    ),
    point(
        "2 ADD",
        "0.1.0",
        "different containers may be added at once",
        add::at_once,
    ),
    point(
        "2 ADD",
        "0.1.0",
        "after a failed ADD and its DEL nothing is left",
        add::failure_leaves_nothing,
    ),
    point(
        "5 Result types",
        "0.3.0",
        "what earlier plugins of the list made is passed on",
        add::previous_result,
    ),
    point("2 DEL", "0.1.0", "DEL removes what ADD made", del::removes),
    point(
        "2 DEL",
        "0.1.0",
        "DEL may be called again and for what was never added",
        del::again,
    ),
    point(
        "2 DEL",
        "0.1.0",
        "DEL works without CNI_NETNS and after the namespace is gone",
        del::without_namespace,
    ),
    point(
        "2 DEL",
        "0.4.0",
        "DEL works with prevResult and without",
        del::previous_result,
    ),
    point(
        "2 DEL",
        "0.1.0",
        "DEL gives addresses back",
        del::addresses_come_back,
    ),
    point(
        "2 DEL",
        "0.1.0",
        "DEL leaves other containers alone",
        del::others_stay,
    ),
    point(
        "2 CHECK",
        "0.4.0",
        "CHECK after ADD succeeds and prints nothing",
        check::quiet,
    ),
    point(
        "2 CHECK",
        "0.4.0",
        "CHECK needs prevResult",
        check::needs_previous_result,
    ),
    point(
        "2 CHECK",
        "0.4.0",
        "CHECK fails when the interface is gone",
        check::interface_gone,
    ),
    point(
        "2 CHECK",
        "0.4.0",
        "CHECK fails when an address is gone",
        check::address_gone,
    ),
    point(
        "2 CHECK",
        "0.4.0",
        "CHECK fails when a route is gone",
        check::route_gone,
    ),
    point(
        "2 CHECK",
        "0.4.0",
        "CHECK allows for what later plugins add",
        check::later_plugins,
    ),
    point(
        "2 CHECK",
        "0.4.0",
        "CHECK of a version before 0.4.0 is error 1",
        check::old_version,
    ),
    point(
        "2 STATUS",
        "1.1.0",
        "STATUS says nothing when ADD can be served",
        collect::status,
    ),
    point(
        "2 GC",
        "1.1.0",
        "GC removes what is not listed and keeps what is",
        collect::gc,
    ),
    point(
        "2 GC",
        "1.1.0",
        "GC and STATUS of a version before 1.1.0 are error 1",
        collect::old_version,
    ),
    point(
        "4 Delegation",
        "0.1.0",
        "the delegate gets the whole configuration and the same variables",
        delegation::input,
    ),
    point(
        "4 Delegation",
        "0.1.0",
        "the delegate's DEL follows, also when the namespace is gone",
        delegation::del,
    ),
    point(
        "4 Delegation",
        "0.4.0",
        "the delegate's CHECK follows",
        delegation::check,
    ),
    point(
        "4 Delegation",
        "0.1.0",
        "after a failed ADD the delegate's DEL follows",
        delegation::failed_add,
    ),
    point(
        "4 Delegation",
        "1.1.0",
        "the delegate's STATUS and GC follow",
        delegation::status_and_gc,
    ),
];

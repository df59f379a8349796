//! How much the API server was asked.

use std::collections::BTreeMap;

use crate::api_server::ApiServer;
use crate::error::Error;

/// The counter of requests that were answered.
const COUNTER: &str = "apiserver_request_total{";

impl ApiServer {
    /// Requests answered since the API server started, by verb and resource: `("PATCH", "pods/status")`. Watches count when they end.
    /// kubectl's and the API server's own requests count, too.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn requests(&self) -> Result<BTreeMap<(String, String), u64>, Error> {
        Ok(sums(&self.kubectl(&["get", "--raw", "/metrics"])?))
    }
}

/// Of the text format of Prometheus.
fn sums(metrics: &str) -> BTreeMap<(String, String), u64> {
    let mut sums = BTreeMap::new();
    for line in metrics.lines() {
        let Some((labels, value)) = line
            .strip_prefix(COUNTER)
            .and_then(|rest| rest.rsplit_once("} "))
        else {
            continue;
        };
        let label = |name: &str| {
            let (_, rest) = labels.split_once(&format!("{name}=\""))?;
            rest.split('"').next().map(str::to_owned)
        };
        let resource = label(",resource").unwrap_or_default();
        let resource = match label("subresource").filter(|part| !part.is_empty()) {
            Some(part) => format!("{resource}/{part}"),
            None => resource,
        };
        // Large ones are written as 1e+06.
        let value: f64 = value.parse().unwrap_or_default();
        *sums
            .entry((label("verb").unwrap_or_default(), resource))
            .or_default() += value as u64;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_answers_are_summed_by_verb_and_resource() {
        let text = "# HELP apiserver_request_total x\n\
            apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",\
            subresource=\"status\",verb=\"PATCH\",version=\"v1\"} 3\n\
            apiserver_request_total{code=\"409\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",\
            subresource=\"status\",verb=\"PATCH\",version=\"v1\"} 1e+01\n\
            apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",\
            subresource=\"\",verb=\"GET\",version=\"v1\"} 1\n\
            apiserver_request_duration_seconds{verb=\"GET\"} 7\n";
        let of = |verb: &str, resource: &str| (verb.to_owned(), resource.to_owned());
        let expected = BTreeMap::from([(of("PATCH", "pods/status"), 13), (of("GET", "pods"), 1)]);
        assert_eq!(sums(text), expected);
    }
}

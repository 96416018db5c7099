//! The lines that a start prints: what is served where, and what an operator should know.

use comet::{Comet, OpenFiles, config::CometConfig};
use logic::{LogicServer, config::LogicConfig};

/// Name and value of each line.
pub(crate) fn rows(
    comet: &Comet,
    comet_config: &CometConfig,
    logic: &LogicServer,
    logic_config: &LogicConfig,
    open_files: OpenFiles,
) -> Vec<(&'static str, String)> {
    let mut rows = comet.rows(comet_config, open_files);
    let pages = logic.http_addrs().iter().map(|address| format!("http://{address}/_/"));
    let secure = logic.https_addrs().iter().map(|address| format!("https://{address}/_/"));
    let pages: Vec<String> = pages.chain(secure).collect();
    let [http, rpc, login, push] = logic.rows(logic_config);
    let rpc = format!("comet {}, logic {}", comet.rpc, rpc.1);
    // Addresses come together, and the open files last.
    let last = rows.len() - 1;
    rows.splice(last..last, [login, push]);
    let at = rows.iter().take_while(|(name, _)| name.starts_with("clients")).count();
    let api = [http].into_iter().chain(logic.https_row());
    rows.splice(at..at, api.chain([("page", pages.join(", ")), ("gRPC", rpc)]));
    rows
}

//! `testbed act`: acts upon a test bed by one call, as what a remediation runs in a Job would, and tells
//! by its exit code what came of it. The key of the step comes by the environment. It is another use of
//! the same image, and listens nowhere.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use reqwest::{Client, Url};
use tokio::signal::unix::{SignalKind, signal};

/// The first argument of the process.
pub const COMMAND: &str = "act";
/// The test bed answered, and refused.
const REFUSED: u8 = 3;
/// As a shell tells of SIGTERM.
const TERMINATED: u8 = 143;

/// What is done, and to whom.
#[derive(Parser, Debug)]
#[command(name = COMMAND)]
struct Order {
    /// Where the test bed is.
    #[arg(long, value_name = "URL")]
    testbed: Url,
    /// Names the call.
    #[arg(long, env = "IDEMPOTENCY_KEY")]
    idempotency_key: String,
    /// What is done.
    action: Act,
    /// The workload.
    #[arg(long)]
    name: String,
    /// For `fail`: so many calls.
    #[arg(long)]
    times: Option<u32>,
    /// For `hang`: for so long.
    #[arg(long)]
    seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Act {
    Break,
    Restart,
    Hang,
    Fail,
}

/// Does what the arguments after [`COMMAND`] say. Ends with 0 when it was done, 3 when the test bed
/// refused, 1 when nobody answered, 2 for arguments that it does not understand, 143 when it was told
/// to end: nothing in a container ends by SIGTERM that does not ask for it.
#[must_use]
pub fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    let order = Order::parse_from(arguments);
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(unless_told_to_end(&order)));
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn unless_told_to_end(order: &Order) -> anyhow::Result<u8> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    tokio::select! {
        code = act(order) => code,
        _ = terminate.recv() => Ok(TERMINATED),
    }
}

async fn act(order: &Order) -> anyhow::Result<u8> {
    let action = match order.action {
        Act::Break => "break",
        Act::Restart => "restart",
        Act::Hang => "hang",
        Act::Fail => "fail",
    };
    let mut url = order.testbed.join(action)?;
    url.query_pairs_mut().append_pair("name", &order.name);
    if let Some(times) = order.times {
        url.query_pairs_mut()
            .append_pair("times", &times.to_string());
    }
    if let Some(seconds) = order.seconds {
        url.query_pairs_mut()
            .append_pair("seconds", &seconds.to_string());
    }
    let client = Client::builder().no_proxy().build()?;
    let call = client
        .post(url.clone())
        .header("idempotency-key", &order.idempotency_key);
    let answer = call
        .send()
        .await
        .with_context(|| format!("{url} does not answer"))?;
    let status = answer.status();
    println!("{url} answered {status}");
    Ok(if status.is_success() { 0 } else { REFUSED })
}

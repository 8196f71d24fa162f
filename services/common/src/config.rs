//! Configuration by flags and environment. Everything is parsed while the command line is, files
//! of secrets included, so bad configuration ends the process at once and the message names the
//! flag. No secret is ever a flag's value, and none is printed.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use clap::Args;

use crate::auth::Tokens;
use crate::client::BaseUrl;

/// Where the three listeners are bound; port 0 takes a free one.
#[derive(Args, Clone, Debug)]
pub struct ListenArgs {
    /// Address of the API.
    #[arg(long, env = "LISTEN_ADDRESS", default_value = "0.0.0.0:8080")]
    pub listen_address: SocketAddr,
    /// Address of /healthz, /readyz and /version.
    #[arg(long, env = "PROBE_ADDRESS", default_value = "0.0.0.0:8081")]
    pub probe_address: SocketAddr,
    /// Address of /metrics.
    #[arg(long, env = "METRICS_ADDRESS", default_value = "0.0.0.0:9090")]
    pub metrics_address: SocketAddr,
}

impl ListenArgs {
    /// Three free ports of the loopback interface, for tests. Not of 127.0.0.1: container engines
    /// publish ports there by rules of the packet filter, and a rule that a killed engine left
    /// takes what is sent to a port that looks free.
    #[must_use]
    pub fn loopback() -> Self {
        let free = SocketAddr::from(([127, 0, 0, 2], 0));
        Self {
            listen_address: free,
            probe_address: free,
            metrics_address: free,
        }
    }
}

/// Who may call the API.
#[derive(Args, Clone, Debug)]
pub struct TokensArgs {
    /// File of the accepted tokens: {"tokens":[{"subject":"…","role":"write","token":"…"}]}.
    #[arg(long = "tokens-file", env = "TOKENS_FILE", value_name = "FILE", value_parser = Tokens::from_file)]
    pub tokens: Tokens,
}

/// How this service reaches DataStorage.
#[derive(Args, Clone, Debug)]
pub struct DataStorageArgs {
    /// URL of DataStorage, http only.
    #[arg(
        long = "datastorage-url",
        env = "DATASTORAGE_URL",
        default_value = "http://datastorage:8080"
    )]
    pub datastorage_url: BaseUrl,
    /// File with this service's token at DataStorage.
    #[arg(long = "datastorage-token-file", env = "DATASTORAGE_TOKEN_FILE", value_name = "FILE", value_parser = Secret::from_file)]
    pub datastorage_token: Secret,
}

/// Which replica this is.
#[derive(Args, Clone, Debug)]
pub struct ReplicaArgs {
    /// Name of this replica, the holder of its leases.
    #[arg(long, env = "HOSTNAME")]
    pub replica_name: String,
}

/// A secret read from a file. It does not show itself in logs.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Reads the file; one line break at its end is not part of the secret.
    ///
    /// # Errors
    /// When the file cannot be read, is not UTF-8 or is empty.
    pub fn from_file(path: &str) -> Result<Self, String> {
        let text = read(Path::new(path))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err("the file is empty".to_owned());
        }
        Ok(Self(text.into()))
    }

    /// Takes a secret that is known already.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        Self(secret.into())
    }

    /// The secret itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// Reads a small text file; the error tells why, the flag is named by clap.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

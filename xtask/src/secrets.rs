//! The run's tokens and passwords: made anew for each run, written to files of the run that only
//! its owner can reach, never on a command line, never in a log.
//!
//! The folder is closed (0700); what is mounted from inside it is open to read (0755 and 0444),
//! because a container's user is another one, and a mount begins below the closed door.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};

use anyhow::{Context as _, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use crate::digest::Digest;
use crate::run;
use crate::source::workspace::{PackageMetadata, SecretValue, Target, Workspace};
use crate::third_party;

mod blackout;

pub(crate) use self::blackout::Blackout;

/// Below the secrets of a run.
const PASSWORDS: &str = "passwords";

/// Where the passwords of the run with this folder lie.
pub(crate) fn passwords(run_directory: &Utf8Path) -> Utf8PathBuf {
    run_directory.join(run::SECRETS).join(PASSWORDS)
}

/// Where the secrets of a run lie.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// `<run>/secrets`, mode 0700.
    pub directory: Utf8PathBuf,
}

/// A service's list of accepted tokens, as its TOKENS_FILE.
#[derive(Serialize)]
struct AcceptedTokens<'a> {
    tokens: Vec<AcceptedToken<'a>>,
}

#[derive(Serialize)]
struct AcceptedToken<'a> {
    subject: &'a str,
    role: &'a str,
    token: &'a str,
}

/// A token, and whose it is.
struct Token {
    subject: String,
    service: String,
    role: String,
    value: String,
}

/// A Secret that somebody in the run declares.
struct Declared {
    owner: String,
    name: String,
    keys: BTreeMap<String, SecretValue>,
}

/// What services and third parties declare of each other, of which tokens and passwords are made: a
/// digest of it, with the third-party images of the target.
///
/// # Errors
/// When `deploy/images.toml` cannot be read.
pub fn declared_digest(workspace: &Workspace, target: &Target) -> Result<Digest> {
    let packages = workspace.packages.values();
    let declared: Vec<_> = packages
        .map(|package| (&package.name, &package.e2e))
        .collect();
    let third_party = third_party::digest(workspace)?;
    let text = format!("{declared:?} {third_party:?} {target:?}");
    Ok(Digest::of(text.as_bytes()))
}

impl Secrets {
    /// Makes all tokens and passwords that the workspace declares and writes `tokens/<subject>@<service>`,
    /// `passwords/<name>`, and `mounts/<secret>/<key>` for each Secret of the target's packages and
    /// third-party images.
    ///
    /// # Errors
    /// When writing fails, or a Secret asks for a token that no subject has.
    pub fn make(workspace: &Workspace, target: &Target, run_directory: &Utf8Path) -> Result<Self> {
        Self::make_with(workspace, target, run_directory, &BTreeMap::new())
    }

    /// As [`Secrets::make`], with the passwords that `known` holds by name: those of a third party
    /// that has stayed.
    ///
    /// # Errors
    /// As [`Secrets::make`].
    pub(crate) fn make_with(
        workspace: &Workspace,
        target: &Target,
        run_directory: &Utf8Path,
        known: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let directory = run_directory.join(run::SECRETS);
        for folder in ["", "tokens", "passwords", "mounts"] {
            make_directory(&directory.join(folder), 0o700)?;
        }
        let secrets = Self { directory };
        let tokens = make_tokens(workspace, target)?;
        for token in &tokens {
            let name = format!("tokens/{}@{}", token.subject, token.service);
            secrets.write(&name, &token.value, 0o600)?;
        }
        let declared = declared(workspace, target)?;
        let mut passwords = make_passwords(&declared)?;
        for (name, value) in &mut passwords {
            if let Some(known) = known.get(name) {
                value.clone_from(known);
            }
        }
        for (name, value) in &passwords {
            secrets.write(&format!("passwords/{name}"), value, 0o600)?;
        }
        for secret in &declared {
            make_directory(&secrets.mount(&secret.name), 0o755)?;
            for (key, value) in &secret.keys {
                let content = content(secret, value, &tokens, &passwords)?;
                let name = format!("mounts/{}/{key}", secret.name);
                secrets.write(&name, &content, 0o444)?;
            }
        }
        Ok(secrets)
    }

    /// The folder of the run.
    pub(crate) fn run_directory(&self) -> &Utf8Path {
        self.directory.parent().unwrap_or(&self.directory)
    }

    /// The folder that holds a folder for each Secret.
    #[must_use]
    pub fn mounts(&self) -> Utf8PathBuf {
        self.directory.join("mounts")
    }

    /// The folder to be mounted for a Secret, if it exists.
    #[must_use]
    pub fn mount(&self, name: &str) -> Utf8PathBuf {
        self.mounts().join(name)
    }

    /// Copies the passwords that third parties are given to the same place below another folder.
    ///
    /// # Errors
    /// When one cannot be read or written.
    pub(crate) fn copy_passwords_of_third_parties(
        &self,
        workspace: &Workspace,
        target: &Target,
        to: &Utf8Path,
    ) -> Result<()> {
        let to = passwords(to);
        make_directory(&to, 0o700)?;
        for image in target.third_party() {
            let secrets = third_party::secrets(workspace, image)?;
            for value in secrets.into_values().flat_map(BTreeMap::into_values) {
                let SecretValue::Password(name) = value else {
                    continue;
                };
                let (from, to) = (self.passwords().join(&name), to.join(&name));
                fs::copy(&from, &to).with_context(|| format!("cannot copy {from} to {to}"))?;
            }
        }
        Ok(())
    }

    /// `tokens/`.
    #[must_use]
    pub fn tokens(&self) -> Utf8PathBuf {
        self.directory.join("tokens")
    }

    /// `passwords/`.
    #[must_use]
    pub fn passwords(&self) -> Utf8PathBuf {
        self.directory.join(PASSWORDS)
    }

    fn write(&self, name: &str, content: &str, mode: u32) -> Result<()> {
        let path = self.directory.join(name);
        let written = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(content.as_bytes())?;
            file.set_permissions(fs::Permissions::from_mode(mode))
        };
        written().with_context(|| format!("cannot write {path}"))
    }
}

/// Makes the folder that the secrets of a run lie in, before anybody else does.
///
/// # Errors
/// When it cannot be made: names it.
pub(crate) fn make_folder(run_directory: &Utf8Path) -> Result<()> {
    make_directory(&run_directory.join(run::SECRETS), 0o700)
}

/// Makes a folder with this mode, whatever the umask is.
fn make_directory(path: &Utf8Path, mode: u32) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("cannot make {path}"))
}

/// 32 bytes from the kernel, as 64 hex digits.
fn random() -> Result<String> {
    let mut bytes = [0_u8; 32];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// One token for each subject of the workspace at each service of the run that it has a role at: a
/// test may act as a service that does not run.
fn make_tokens(workspace: &Workspace, target: &Target) -> Result<Vec<Token>> {
    let mut tokens: Vec<Token> = Vec::new();
    for (package, declared) in &workspace.packages {
        let Some(e2e) = &declared.e2e else {
            continue;
        };
        for (subject, roles) in &e2e.subjects {
            for (service, role) in roles {
                check_role(workspace, package.as_str(), subject, service, role)?;
                if !target
                    .packages()
                    .iter()
                    .any(|known| known.as_str() == service)
                {
                    continue;
                }
                if tokens
                    .iter()
                    .any(|t| t.subject == *subject && t.service == *service)
                {
                    bail!("{package}: subject `{subject}` is declared twice at {service}");
                }
                tokens.push(Token {
                    subject: subject.clone(),
                    service: service.clone(),
                    role: role.clone(),
                    value: random()?,
                });
            }
        }
    }
    Ok(tokens)
}

fn check_role(
    workspace: &Workspace,
    package: &str,
    subject: &str,
    service: &str,
    role: &str,
) -> Result<()> {
    let field = format!("{package}: [package.metadata.e2e.subjects.{subject}] {service}");
    if !["read", "write", "approve", "admin"].contains(&role) {
        bail!("{field}: `{role}` is no role: read, write, approve, admin");
    }
    if !is_file_name(subject) || subject.contains('@') {
        bail!("{field}: `{subject}` is no name for a subject");
    }
    workspace.package(service).with_context(|| field).map(drop)
}

/// Every Secret of the run.
fn declared(workspace: &Workspace, target: &Target) -> Result<Vec<Declared>> {
    let mut all = Vec::new();
    let own = |owner: &str, metadata: &PackageMetadata| -> Vec<Declared> {
        let named = |(name, keys): (&String, &BTreeMap<String, SecretValue>)| Declared {
            owner: owner.to_owned(),
            name: name.clone(),
            keys: keys.clone(),
        };
        metadata.secrets.iter().map(named).collect()
    };
    for package in target.packages() {
        if let Some(e2e) = &workspace.package(package.as_str())?.e2e {
            all.extend(own(package.as_str(), e2e));
        }
    }
    for name in target.third_party() {
        let secrets = third_party::secrets(workspace, name)?;
        all.extend(secrets.into_iter().map(|(secret, keys)| Declared {
            owner: name.clone(),
            name: secret,
            keys,
        }));
    }
    let mut seen = BTreeSet::new();
    for secret in &all {
        let Declared { owner, name, keys } = secret;
        if !seen.insert(name) {
            bail!("{owner}: Secret `{name}` is declared twice");
        }
        if let Some(name) = keys.keys().chain([name]).find(|name| !is_file_name(name)) {
            bail!("{owner}: Secret `{name}`: no file can have this name");
        }
    }
    Ok(all)
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0', ':', ','])
}

fn make_passwords(declared: &[Declared]) -> Result<BTreeMap<String, String>> {
    let mut passwords = BTreeMap::new();
    for value in declared.iter().flat_map(|secret| secret.keys.values()) {
        if let SecretValue::Password(name) = value {
            if !is_file_name(name) {
                bail!("password `{name}`: no file can have this name");
            }
            if !passwords.contains_key(name) {
                passwords.insert(name.clone(), random()?);
            }
        }
    }
    Ok(passwords)
}

fn content(
    secret: &Declared,
    value: &SecretValue,
    tokens: &[Token],
    passwords: &BTreeMap<String, String>,
) -> Result<String> {
    let Declared { owner, name, .. } = secret;
    match value {
        SecretValue::AcceptedTokens => {
            let accepted = tokens.iter().filter(|token| token.service == *owner);
            let tokens = accepted
                .map(|token| AcceptedToken {
                    subject: &token.subject,
                    role: &token.role,
                    token: &token.value,
                })
                .collect();
            Ok(serde_json::to_string_pretty(&AcceptedTokens { tokens })?)
        }
        SecretValue::Token(service) => tokens
            .iter()
            .find(|token| token.subject == *owner && token.service == *service)
            .map(|token| token.value.clone())
            .with_context(|| {
                format!(
                    "{owner}: Secret `{name}` asks for a token at {service}, and subject `{owner}` has no role there: say so in [package.metadata.e2e.subjects.{owner}], and name {service} in `needs`"
                )
            }),
        SecretValue::Password(name) => Ok(passwords[name].clone()),
    }
}

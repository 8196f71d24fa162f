//! The documents that a manifest may hold, field by field: the closed list of what the local
//! cluster honours. A field that is not here is refused by its absence; nothing is skipped.

use std::collections::BTreeMap;

use serde::Deserialize;

/// What every document begins with; enough to tell which of them it is.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    #[serde(default)]
    pub(super) api_version: String,
    #[serde(default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) metadata: HeadMetadata,
}

/// The name of any document.
#[derive(Debug, Default, Deserialize)]
pub(super) struct HeadMetadata {
    #[serde(default)]
    pub(super) name: String,
}

/// `metadata`. A namespace is the run's own affair and therefore no field.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metadata {
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// `apps/v1 Deployment`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deployment {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub(crate) metadata: Metadata,
    pub(crate) spec: DeploymentSpec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct DeploymentSpec {
    #[serde(default = "one")]
    pub(crate) replicas: u32,
    pub(crate) selector: Selector,
    #[serde(default, rename = "strategy")]
    _strategy: Option<Strategy>,
    pub(crate) template: PodTemplate,
}

const fn one() -> u32 {
    1
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Selector {
    pub(crate) match_labels: BTreeMap<String, String>,
}

/// Each run starts from nothing, so there is never an older pod to be replaced.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Strategy {
    #[serde(rename = "type")]
    _type: StrategyType,
    #[serde(default, rename = "rollingUpdate")]
    _rolling_update: Option<RollingUpdate>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum StrategyType {
    Recreate,
    RollingUpdate,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RollingUpdate {
    #[serde(default, rename = "maxSurge")]
    _max_surge: Option<Port>,
    #[serde(default, rename = "maxUnavailable")]
    _max_unavailable: Option<Port>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PodTemplate {
    pub(crate) metadata: Metadata,
    pub(crate) spec: PodSpec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PodSpec {
    #[serde(default, rename = "automountServiceAccountToken")]
    _automount_service_account_token: Option<bool>,
    #[serde(default, rename = "enableServiceLinks")]
    _enable_service_links: Option<bool>,
    /// Void, as the ServiceAccount that it names; which must be there all the same.
    #[serde(default)]
    pub(crate) service_account_name: Option<String>,
    #[serde(default)]
    pub(crate) termination_grace_period_seconds: Option<u32>,
    #[serde(default)]
    pub(crate) security_context: PodSecurityContext,
    #[serde(default)]
    pub(crate) init_containers: Vec<Container>,
    pub(crate) containers: Vec<Container>,
    #[serde(default)]
    pub(crate) volumes: Vec<Volume>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PodSecurityContext {
    #[serde(default)]
    pub(crate) run_as_non_root: Option<bool>,
    #[serde(default)]
    pub(crate) run_as_user: Option<u32>,
    #[serde(default)]
    pub(crate) run_as_group: Option<u32>,
    #[serde(default)]
    pub(crate) fs_group: Option<u32>,
    #[serde(default, rename = "fsGroupChangePolicy")]
    _fs_group_change_policy: Option<FsGroupChangePolicy>,
    #[serde(default, rename = "seccompProfile")]
    _seccomp_profile: Option<SeccompProfile>,
}

/// A volume of a run is mounted for the first time in any case.
#[derive(Clone, Copy, Debug, Deserialize)]
enum FsGroupChangePolicy {
    Always,
    OnRootMismatch,
}

/// The engine's own profile is in force in any case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeccompProfile {
    #[serde(rename = "type")]
    _type: SeccompType,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum SeccompType {
    RuntimeDefault,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Container {
    pub(crate) name: String,
    /// A logical name: one of our packages, or a table of `deploy/images.toml`.
    pub(crate) image: String,
    #[serde(default)]
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<Variable>,
    #[serde(default)]
    pub(crate) ports: Vec<ContainerPort>,
    #[serde(default)]
    pub(crate) volume_mounts: Vec<VolumeMount>,
    #[serde(default)]
    pub(crate) readiness_probe: Option<Probe>,
    #[serde(default, rename = "livenessProbe")]
    _liveness_probe: Option<Probe>,
    #[serde(default, rename = "startupProbe")]
    _startup_probe: Option<Probe>,
    #[serde(default)]
    pub(crate) resources: Resources,
    #[serde(default)]
    pub(crate) security_context: SecurityContext,
}

impl Container {
    /// Its ports; one without a name goes by its number.
    pub(crate) fn named_ports(&self) -> BTreeMap<String, u16> {
        let ports = self.ports.iter().map(|port| {
            let number = port.container_port;
            let name = port.name.clone();
            (name.unwrap_or_else(|| number.to_string()), number)
        });
        ports.collect()
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Variable {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) value: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ContainerPort {
    #[serde(default)]
    pub(crate) name: Option<String>,
    pub(crate) container_port: u16,
    #[serde(default, rename = "protocol")]
    _protocol: Option<Protocol>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Protocol {
    #[serde(rename = "TCP")]
    Tcp,
}

/// A number or a name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Port {
    Number(u16),
    Name(String),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct VolumeMount {
    pub(crate) name: String,
    pub(crate) mount_path: String,
    #[serde(default)]
    pub(crate) read_only: bool,
}

/// How readiness is asked. Periods and thresholds are for a cluster that watches on; here the
/// question is put until it is answered or the deadline is over.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Probe {
    #[serde(default)]
    pub(crate) http_get: Option<HttpGet>,
    #[serde(default)]
    pub(crate) tcp_socket: Option<TcpSocket>,
    #[serde(default, rename = "initialDelaySeconds")]
    _initial_delay_seconds: Option<u32>,
    #[serde(default, rename = "periodSeconds")]
    _period_seconds: Option<u32>,
    #[serde(default)]
    pub(crate) timeout_seconds: Option<u32>,
    #[serde(default, rename = "failureThreshold")]
    _failure_threshold: Option<u32>,
    #[serde(default, rename = "successThreshold")]
    _success_threshold: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HttpGet {
    pub(crate) path: String,
    pub(crate) port: Port,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TcpSocket {
    pub(crate) port: Port,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resources {
    /// Reserves nothing, since there is no scheduler; the host must have it all the same.
    #[serde(default)]
    pub(crate) requests: Quantities,
    #[serde(default)]
    pub(crate) limits: Quantities,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Quantities {
    #[serde(default)]
    pub(crate) cpu: Option<Cpu>,
    #[serde(default)]
    pub(crate) memory: Option<Memory>,
}

/// Processor time in thousandths of one processor; written `2`, `0.5` or `500m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub(crate) struct Cpu {
    pub(crate) thousandths: u64,
}

/// Memory in bytes; written `268435456`, `256Mi` or `1G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub(crate) struct Memory {
    pub(crate) bytes: u64,
}

/// A quantity as YAML gives it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Integer(u64),
    Fraction(f64),
    Text(String),
}

impl Scalar {
    fn text(self) -> String {
        match self {
            Self::Integer(number) => number.to_string(),
            Self::Fraction(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

impl TryFrom<Scalar> for Cpu {
    type Error = String;

    fn try_from(scalar: Scalar) -> Result<Self, String> {
        let text = scalar.text();
        let thousandths = match text.strip_suffix('m') {
            Some(number) => number.parse().ok(),
            None => thousandths(&text),
        };
        thousandths
            .map(|thousandths| Self { thousandths })
            .ok_or_else(|| format!("`{text}` is no processor time: write `2`, `0.5` or `500m`"))
    }
}

/// `1.25` is 1250; more than three digits after the point are refused, as Kubernetes does.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let fraction: u64 = format!("{fraction:0<3}").parse().ok()?;
    whole.checked_mul(1000)?.checked_add(fraction)
}

impl TryFrom<Scalar> for Memory {
    type Error = String;

    fn try_from(scalar: Scalar) -> Result<Self, String> {
        const UNITS: [(&str, u64); 7] = [
            ("Ki", 1 << 10),
            ("Mi", 1 << 20),
            ("Gi", 1 << 30),
            ("k", 1_000),
            ("M", 1_000_000),
            ("G", 1_000_000_000),
            ("", 1),
        ];
        let text = scalar.text();
        UNITS
            .iter()
            .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, factor)))
            .and_then(|(number, factor)| number.parse::<u64>().ok()?.checked_mul(*factor))
            .map(|bytes| Self { bytes })
            .ok_or_else(|| format!("`{text}` is no amount of memory: write `256Mi` or `1Gi`"))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct SecurityContext {
    #[serde(default)]
    pub(crate) run_as_non_root: Option<bool>,
    #[serde(default)]
    pub(crate) run_as_user: Option<u32>,
    #[serde(default)]
    pub(crate) run_as_group: Option<u32>,
    #[serde(default)]
    pub(crate) read_only_root_filesystem: bool,
    /// Kubernetes allows it unless told otherwise.
    #[serde(default)]
    pub(crate) allow_privilege_escalation: Option<bool>,
    #[serde(default)]
    pub(crate) capabilities: Capabilities,
    #[serde(default, rename = "seccompProfile")]
    _seccomp_profile: Option<SeccompProfile>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Capabilities {
    #[serde(default)]
    pub(crate) drop: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Volume {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) config_map: Option<ConfigMapVolume>,
    #[serde(default)]
    pub(crate) secret: Option<SecretVolume>,
    #[serde(default)]
    pub(crate) empty_dir: Option<EmptyDir>,
    /// In what runs there is none: see [`super::thrown_away`].
    #[serde(default)]
    pub(crate) persistent_volume_claim: Option<ClaimVolume>,
    /// Void without Kubernetes.
    #[serde(default)]
    pub(crate) projected: Option<ProjectedVolume>,
}

/// What a pod needs to ask the API server, and nothing else: a volume of other things would not be void.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ProjectedVolume {
    #[serde(default, rename = "defaultMode")]
    _default_mode: Option<u32>,
    pub(crate) sources: Vec<ProjectedSource>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ProjectedSource {
    #[serde(default)]
    pub(crate) service_account_token: Option<TokenSource>,
    #[serde(default)]
    pub(crate) config_map: Option<AuthoritySource>,
    #[serde(default, rename = "downwardAPI")]
    pub(crate) downward_api: Option<DownwardSource>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct TokenSource {
    #[serde(default, rename = "audience")]
    _audience: Option<String>,
    #[serde(default, rename = "expirationSeconds")]
    _expiration_seconds: Option<u32>,
    #[serde(rename = "path")]
    _path: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuthoritySource {
    #[serde(rename = "name")]
    _name: Authority,
    #[serde(default, rename = "items")]
    _items: Vec<AuthorityItem>,
}

/// Whom a pod believes to be the API server; Kubernetes puts it into every namespace.
#[derive(Clone, Copy, Debug, Deserialize)]
enum Authority {
    #[serde(rename = "kube-root-ca.crt")]
    KubeRootCa,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorityItem {
    #[serde(rename = "key")]
    _key: String,
    #[serde(rename = "path")]
    _path: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DownwardSource {
    #[serde(rename = "items")]
    _items: Vec<DownwardItem>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DownwardItem {
    #[serde(rename = "path")]
    _path: String,
    #[serde(rename = "fieldRef")]
    _field_ref: FieldReference,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FieldReference {
    #[serde(rename = "fieldPath")]
    _field_path: Field,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Field {
    #[serde(rename = "metadata.namespace")]
    Namespace,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ClaimVolume {
    pub(crate) claim_name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigMapVolume {
    pub(crate) name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct SecretVolume {
    pub(crate) secret_name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct EmptyDir {
    #[serde(default)]
    pub(crate) medium: Option<Medium>,
    #[serde(default)]
    pub(crate) size_limit: Option<Memory>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Medium {
    #[serde(rename = "")]
    Default,
    Memory,
}

/// `v1 Service`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub(crate) metadata: Metadata,
    pub(crate) spec: ServiceSpec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceSpec {
    #[serde(default, rename = "type")]
    _type: Option<ServiceType>,
    pub(crate) selector: BTreeMap<String, String>,
    pub(crate) ports: Vec<ServicePort>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum ServiceType {
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ServicePort {
    #[serde(default, rename = "name")]
    _name: Option<String>,
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) target_port: Option<Port>,
    #[serde(default, rename = "nodePort")]
    _node_port: Option<u16>,
    #[serde(default, rename = "protocol")]
    _protocol: Option<Protocol>,
}

/// `v1 PersistentVolumeClaim`. A run holds it against this list and gives its pod an emptyDir.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PersistentVolumeClaim {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub(crate) metadata: Metadata,
    #[serde(rename = "spec")]
    _spec: ClaimSpec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ClaimSpec {
    #[serde(rename = "accessModes")]
    _access_modes: [AccessMode; 1],
    #[serde(rename = "resources")]
    _resources: ClaimResources,
    #[serde(default, rename = "storageClassName")]
    _storage_class_name: Option<String>,
}

/// One pod has it, so what it says is one pod's own.
#[derive(Clone, Copy, Debug, Deserialize)]
enum AccessMode {
    ReadWriteOnce,
    ReadWriteOncePod,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimResources {
    #[serde(rename = "requests")]
    _requests: ClaimRequests,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimRequests {
    #[serde(rename = "storage")]
    _storage: Memory,
}

/// `v1 PodTemplate`: pods are made from it in a cluster, while a run goes on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PodTemplateDocument {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub(crate) metadata: Metadata,
    pub(crate) template: PodTemplate,
}

/// `v1 ConfigMap`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigMap {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    pub(crate) metadata: Metadata,
    #[serde(default)]
    pub(crate) data: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::{Cpu, Memory};

    #[track_caller]
    fn check_memory(yaml: &str, bytes: Option<u64>) {
        let parsed = serde_norway::from_str::<Memory>(yaml).ok();
        assert_eq!(parsed.map(|memory| memory.bytes), bytes, "{yaml}");
    }

    #[track_caller]
    fn check_cpu(yaml: &str, thousandths: Option<u64>) {
        let parsed = serde_norway::from_str::<Cpu>(yaml).ok();
        assert_eq!(parsed.map(|cpu| cpu.thousandths), thousandths, "{yaml}");
    }

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        check_memory("256Mi", Some(268_435_456));
        check_memory("1G", Some(1_000_000_000));
        check_memory("1000", Some(1000));
        check_memory("\"1000\"", Some(1000));
        check_memory("12 Mi", None);
        check_memory("Mi", None);
        check_memory("99999999999Gi", None);
        check_cpu("2", Some(2000));
        check_cpu("\"2\"", Some(2000));
        check_cpu("0.5", Some(500));
        check_cpu("500m", Some(500));
        check_cpu("0.0005", None);
        check_cpu("m", None);
        check_cpu("-1", None);
    }
}

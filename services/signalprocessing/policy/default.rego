# How a signal is classified. Asked are environment, severity (critical, warning, info,
# unknown), priority (P0 to P3), signal_mode (reactive, proactive) and reason; the rest helps.
#
# input.severity           critical, warning, info or unknown
# input.signal             source, name, labels, annotations
# input.target             cluster, namespace, kind, name
# input.namespace.labels   labels of the namespace; input.namespace is null where it is unknown
# input.workload.labels    labels of the target; input.workload is null where it is unknown
# input.owners             kind and name of each owner, nearest first
# input.degraded           neither the inventory nor the Kubernetes API knows the target
package classification

environment_names := {
	"production": "production", "prod": "production", "live": "production",
	"staging": "staging", "stage": "staging",
	"development": "development", "dev": "development",
}

default environment := "unknown"

environment := environment_names[lower(input.namespace.labels.environment)]

priorities := {
	"production": {"critical": "P0", "warning": "P1", "info": "P2", "unknown": "P2"},
	"staging": {"critical": "P1", "warning": "P1", "info": "P2", "unknown": "P2"},
	"development": {"critical": "P3", "warning": "P3", "info": "P3", "unknown": "P3"},
}

# Nobody said what it is: neither first in the row nor last.
default priority := "P2"

priority := priorities[environment][input.severity]

default proactive := false

proactive if input.signal.labels.signal_mode == "proactive"

proactive if contains(lower(input.signal.name), "predict")

default signal_mode := "reactive"

signal_mode := "proactive" if proactive

severity := input.severity

reason := sprintf("%s signal in environment %s is %s", [severity, environment, priority])

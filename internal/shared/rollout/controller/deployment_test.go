package controller

import (
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// TestDeploymentExampleReads: the example's objects are read strictly, are all in the
// namespace of the Leases, and name these; no right is for everything.
// TestClusterRolloutOfFakes runs a controller with these rights.
func TestDeploymentExampleReads(t *testing.T) {
	s, err := Scheme()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../../../examples/rollout-deployment/controller.yaml")
	if err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(s, serializer.EnableStrict).UniversalDeserializer()
	var leases, rights []string
	var account string
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		o, kind, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			t.Fatalf("%v:\n%s", err, document)
		}
		var rules []rbacv1.PolicyRule
		switch o := o.(type) {
		case *rbacv1.ClusterRole:
			rules = o.Rules
		case *rbacv1.Role:
			rules = o.Rules
			if o.Namespace != Namespace {
				t.Errorf("the Leases are in %s, and the rights for %s", Namespace, o.Namespace)
			}
		case *appsv1.Deployment:
			account = o.Namespace + "/" + o.Spec.Template.Spec.ServiceAccountName
		case *rbacv1.ClusterRoleBinding:
			rights = append(rights, o.Subjects[0].Namespace+"/"+o.Subjects[0].Name)
		case *rbacv1.RoleBinding:
			rights = append(rights, o.Subjects[0].Namespace+"/"+o.Subjects[0].Name)
		}
		for _, r := range rules {
			leases = append(leases, r.ResourceNames...)
			if slices.Contains(slices.Concat(r.APIGroups, r.Resources, r.Verbs), "*") {
				t.Errorf("%v: the rule %v is for everything", kind, r)
			}
		}
	}
	if !slices.Equal(leases, []string{Election, Lock}) {
		t.Errorf("the rights are for the Leases %q, want %q and %q", leases, Election, Lock)
	}
	if account == "" || !slices.Equal(rights, []string{account, account}) {
		t.Errorf("the Deployment runs as %q, the rights are of %q", account, rights)
	}
}

package rollout

import (
	"fmt"

	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Self is what a node knows of itself.
type Self struct {
	Digest string     // of the image that runs
	Kind   slots.Kind // of the boot
	// Update is what the card says of the last upgrade; nil for nothing.
	Update *slots.Update
	// Busy says that an upgrade is being brought or applied right now.
	Busy bool
	// Written is the digest of what was written to the other slot; "" where that is
	// not known.
	Written string
	// Problem is why the last attempt to bring or apply failed, and may be tried
	// again; Refusal why it is refused for good. "" for nothing.
	Problem, Refusal string
}

// Verb is what a node does.
type Verb string

// The verbs.
const (
	Nothing Verb = ""
	Bring   Verb = "bring" // write the image to the other slot
	Apply   Verb = "apply" // that, where it is not there, and restart into its trial
)

// Answers returns what a node says to a request, and what it does. last is what it
// said before, as the API server has it. The answer must be there before the verb
// begins: after a power cut it tells what the node was about to do. A nil answer
// leaves what is there.
func Answers(r *Request, last *Answer, s Self) (*Answer, Verb) {
	if r == nil {
		return nil, Nothing
	}
	said := Phase("") // to this request
	if last != nil && last.ID == r.ID {
		said = last.Phase
	}
	answer := func(p Phase, reason string) *Answer { return &Answer{ID: r.ID, Phase: p, Reason: reason} }
	ours := s.Update != nil && s.Update.Digest == r.Digest
	switch {
	case s.Digest == r.Digest && s.Kind == slots.Trial:
		return answer(OnTrial, ""), Nothing
	case s.Digest == r.Digest:
		return answer(Committed, ""), Nothing
	case said.Final():
		return last, Nothing
	case ours && s.Update.UnderWay():
		// Asked for, and not started yet, or about to be asked for again.
		return answer(Applying, ""), Nothing
	case ours && s.Update.Step == slots.Left && (said == Applying || said == OnTrial):
		return answer(Left, s.Update.Reason), Nothing
	case ours && s.Update.Step == slots.Left && s.Update.Bad && !r.Again:
		return answer(Refused, fmt.Sprintf("release %s failed on this node before: %s", s.Update.Release, s.Update.Reason)), Nothing
	case s.Refusal != "":
		return answer(Refused, s.Refusal), Nothing
	case s.Busy && r.Apply && said == Applying:
		return answer(Applying, s.Problem), Nothing
	case s.Busy:
		return answer(Bringing, s.Problem), Nothing
	case !r.Apply && s.Written == r.Digest:
		return answer(Brought, ""), Nothing
	case !r.Apply:
		return answer(Bringing, s.Problem), Bring
	}
	return answer(Applying, s.Problem), Apply
}

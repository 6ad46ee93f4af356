package server

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/sealboot/sealboot/attest/policy"
	"github.com/sealboot/sealboot/attest/server/site"
	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/verify"
)

// An appraiser judges verified evidence of one device: a [policy.Set].
type appraiser interface {
	Appraise(*verify.Verified, policy.Device, policy.History) *policy.Appraisal
}

// appraisers keeps the parsed documents until one of them changes in the store.
type appraisers struct {
	parse      func([]store.Document) (appraiser, error)
	mu         sync.Mutex
	generation int64
	current    appraiser
}

func (a *appraisers) get(ctx context.Context, st *store.Store) (appraiser, error) {
	generation, err := st.Generation(ctx)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current != nil && a.generation == generation {
		return a.current, nil
	}
	documents, err := st.Documents(ctx)
	if err != nil {
		return nil, err
	}
	f, err := a.parse(documents)
	if err != nil {
		return nil, fmt.Errorf("read the site's policy: %w", err)
	}
	a.current, a.generation = f, generation
	return f, nil
}

// parseDocuments builds the policy from the documents in use, oldest first.
func parseDocuments(documents []store.Document) (appraiser, error) {
	documents = slices.Clone(documents)
	slices.SortStableFunc(documents, func(a, b store.Document) int { return a.Added.Compare(b.Added) })
	set := new(policy.Set)
	for _, d := range documents {
		if !d.Retired.IsZero() {
			continue
		}
		doc, err := policy.Parse(d.Body)
		if err != nil {
			return nil, fmt.Errorf("document %s/%s: %w", d.Kind, d.Name, err)
		}
		set.Add(doc)
	}
	return set, nil
}

// rulesFor is what the site decided about one device.
func (s *Server) rulesFor(d store.Device) policy.Device {
	return policy.Device{
		Profiles: d.Policy.Profiles, Images: d.Policy.Images, AllowUnmeasured: d.Policy.AllowUnmeasured,
		// Who enrolled a device by certificate or hash has vouched for its key; a join token vouches for nothing.
		RequireEndorsement: s.Site.Endorsement == site.EndorsedByCertificate && d.Tier == "token",
	}
}

// history is what a device has proven in its acknowledged boots.
func (s *Server) history(ctx context.Context, device string) (policy.History, error) {
	numbers, err := s.Store.Versions(ctx, device)
	return policy.HistoryOf(numbers), err
}

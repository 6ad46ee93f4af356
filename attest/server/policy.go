package server

import (
	"context"
	"fmt"
	"sync"

	"github.com/sealboot/sealboot/attest/store"
	"github.com/sealboot/sealboot/attest/verify"
	"github.com/sealboot/sealboot/attest/wire"
)

// finding is what the appraisal policy says of verified evidence. No reasons means that it agrees.
type finding struct {
	reasons  []wire.Reason
	image    string           // name of the reference values that the image matched
	version  int64            // of the image
	versions map[string]int64 // what the device has shown and must not fall back behind
}

// appraiseFunc appraises verified evidence by one set of documents.
type appraiseFunc func(*verify.Verified) finding

// appraisers keeps the parsed documents until one of them changes in the store.
type appraisers struct {
	parse      func([]store.Document) (appraiseFunc, error)
	mu         sync.Mutex
	generation int64
	current    *appraiser
}

type appraiser struct{ appraise appraiseFunc }

func (a *appraisers) get(ctx context.Context, st *store.Store) (*appraiser, error) {
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
	a.current, a.generation = &appraiser{f}, generation
	return a.current, nil
}

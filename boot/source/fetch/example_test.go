package fetch_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sealboot/sealboot/boot/source/fetch"
)

// A blob is fetched from the mirrors in their order: the first one here has lost it. The
// file holds the verified bytes, in memory, and nothing that a server said was believed.
func Example() {
	content := []byte("an operating system")
	good := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	defer good.Close()
	lost := httptest.NewServer(http.NotFoundHandler())
	defer lost.Close()
	at := func(name, base string) fetch.Mirror {
		return fetch.HTTP{Name: name, Client: http.DefaultClient, URL: func(b fetch.Blob) string { return base + "/" + b.Digest.Encoded() }}
	}

	f, err := fetch.New(fetch.Options{
		Mirrors: []fetch.Mirror{at("first", lost.URL), at("second", good.URL)},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	file, err := f.Blob(context.Background(), fetch.Blob{Digest: digest.FromBytes(content), Size: int64(len(content))})
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	text, err := io.ReadAll(file)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", text)
	// Output: an operating system
}

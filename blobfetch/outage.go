package blobfetch

import "time"

// An Outage is what is known of a host that does not answer as it should, and is tried again.
type Outage struct {
	Host  string    // HOST or HOST:PORT
	Since time.Time // of the first request that failed
	Tries int       // requests that failed since
	Next  time.Time // of the next try
	Cause string    // why the last try failed; without secrets
}

// Outages lists the hosts that are waited for, by name.
func (c *Client) Outages() []Outage { return nil }

// Outage tells what the reads of the blob wait for; false if no read waits.
func (b *Blob) Outage() (Outage, bool) { return Outage{}, false }

// SetPatient has faults that may pass waited for until Config.StallTimeout. Before it is called the
// blob is being looked up, and they fail after some seconds.
func (b *Blob) SetPatient() {}

package deflate
import ("testing";"runtime";"syscall";"bytes";"io";"fmt"
kgzip "github.com/klauspost/compress/gzip"
"github.com/machinefs/machinefs/seekable/internal/codec")
func cpu() float64 { var u syscall.Rusage; syscall.Getrusage(1,&u); return float64(u.Utime.Nano()+u.Stime.Nano())/1e6 }
func TestZZ(t *testing.T) {
	runtime.LockOSThread()
	plain := corpus(t)["program"]
	for _, lv := range []string{"-1c","-6c"} {
	gz := pipe(t, plain, "gzip", lv)
	buf := make([]byte, windowSize+4<<20)
	for i:=range buf {buf[i]=1}
	mw, mk := 1e9,1e9
	for i:=0;i<12;i++ {
		c:=cpu()
		w,_ := NewWalker(bytes.NewReader(gz), Gzip, codec.Point{}, nil)
		at:=0
		for { n,_,err:=w.Next(buf[:at+4<<20],at); if err==io.EOF {break}; if err!=nil {t.Fatal(err)}
			end:=at+n; at=copy(buf, buf[max(0,end-windowSize):end]) }
		mw=min(mw,cpu()-c); c=cpu()
		r,_ := kgzip.NewReader(bytes.NewReader(gz)); io.Copy(io.Discard,r)
		mk=min(mk,cpu()-c)
	}
	fmt.Printf("%s walk %.1f ms %.0f MB/s, klauspost %.1f ms %.0f MB/s\n", lv, mw, float64(len(plain))/mw/1000, mk, float64(len(plain))/mk/1000)
	}
}

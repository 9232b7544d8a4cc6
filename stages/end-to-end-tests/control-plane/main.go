// A control plane for tests: etcd, kube-apiserver, kube-controller-manager and kubectl as one program, whose first argument says which of
// them it is. In the place of scheduler and kubelets stands `pods` (pods.go). There is no network of pods.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	"k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	if len(os.Args) < 2 {
		fail("say which: key FILE, etcd FOLDER CLIENTS PEERS, pods KUBECONFIG FOLDER, or kube-apiserver, kube-controller-manager, kubectl with their arguments")
	}
	which := os.Args[1]
	os.Args = os.Args[1:]
	if which != "kubectl" && which != "key" {
		endWithStandardInput()
	}
	switch which {
	case "key":
		key(os.Args[1])
	case "pods":
		pods(os.Args[1], os.Args[2])
	case "etcd":
		etcd(os.Args[1:])
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllers.NewControllerManagerCommand()))
	case "kubectl":
		if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
			fail(err.Error())
		}
	default:
		fail("there is no " + which)
	}
}

// Ends with whoever has started this: a test that is killed leaves nothing behind.
func endWithStandardInput() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
}

// A key with which tokens of service accounts are signed.
func key(file string) {
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		fail(err.Error())
	}
	bytes, err := x509.MarshalECPrivateKey(made)
	if err != nil {
		fail(err.Error())
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: bytes})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		fail(err.Error())
	}
}

// One member, which syncs nothing: it lives as long as a test.
func etcd(arguments []string) {
	if len(arguments) != 3 {
		fail("etcd FOLDER CLIENTS PEERS, the last two as http://127.0.0.1:PORT")
	}
	text := fmt.Sprintf("name: test\ndata-dir: %q\nlisten-client-urls: %[2]s\nadvertise-client-urls: %[2]s\nlisten-peer-urls: %[3]s\n"+
		"initial-advertise-peer-urls: %[3]s\ninitial-cluster: test=%[3]s\nunsafe-no-fsync: true\nlog-level: error\n",
		arguments[0], arguments[1], arguments[2])
	file := arguments[0] + ".yaml"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		fail(err.Error())
	}
	config, err := embed.ConfigFromFile(file)
	if err != nil {
		fail(err.Error())
	}
	server, err := embed.StartEtcd(config)
	if err != nil {
		fail(err.Error())
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-stop:
		server.Close()
	case err := <-server.Err():
		fail(err.Error())
	}
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(1)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	// Of a namespace whose pods run as processes: the folder that stands for the image's /usr/local/bin.
	programs = "tests.millstream/programs"
	inImage  = "/usr/local/bin/"
	// How long after its end a container is started again.
	restartPause = 500 * time.Millisecond
)

// In the place of a kubelet, for namespaces that say so: containers run as processes of this machine, with their commands, arguments,
// variables, mounted files and probes. Paths of mounts become folders below `folder`, and what a container listens on becomes a free port.
type kubelet struct {
	client kubernetes.Interface
	folder string
	pods   sync.Map
}

// One pod.
type running struct {
	kubelet  *kubelet
	pod      *core.Pod
	programs string
	folder   string
	// Paths of this machine by paths in the containers.
	mounts map[string]string
	// Ports of this machine by ports of the containers.
	ports    map[string]string
	stop     chan struct{}
	stopOnce sync.Once
	restarts int32
}

// Runs the pod, or ends it when that is asked for.
func (k *kubelet) see(ctx context.Context, pod *core.Pod, programs string) {
	fresh := &running{
		kubelet: k, pod: pod, programs: programs, folder: filepath.Join(k.folder, string(pod.UID)),
		mounts: map[string]string{}, ports: map[string]string{}, stop: make(chan struct{}),
	}
	found, isThere := k.pods.LoadOrStore(pod.UID, fresh)
	known := found.(*running)
	if !isThere {
		go known.live(ctx)
	}
	if pod.DeletionTimestamp != nil {
		known.stopOnce.Do(func() { close(known.stop) })
	}
}

func (r *running) isStopping() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

func (r *running) live(ctx context.Context) {
	code := 0
	for {
		err := r.mount(ctx)
		if err == nil || r.isStopping() {
			break
		}
		r.tell(ctx, core.PodPending, false, err.Error(), nil)
		time.Sleep(restartPause)
	}
	containers := append(append([]core.Container{}, r.pod.Spec.InitContainers...), r.pod.Spec.Containers...)
	for number, container := range containers {
		isLast := number == len(containers)-1
		for !r.isStopping() {
			var err error
			code, err = r.run(ctx, container, isLast)
			if err != nil {
				r.tell(ctx, core.PodPending, false, err.Error(), nil)
				code = 127
			}
			isDone := code == 0 && (!isLast || r.pod.Spec.RestartPolicy != core.RestartPolicyAlways)
			if isDone || r.pod.Spec.RestartPolicy == core.RestartPolicyNever {
				break
			}
			r.restarts++
			time.Sleep(restartPause)
		}
	}
	if r.isStopping() {
		own := r.kubelet.client.CoreV1().Pods(r.pod.Namespace)
		if err := own.Delete(ctx, r.pod.Name, *meta.NewDeleteOptions(0)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return
	}
	exit := int32(code)
	if code == 0 {
		r.tell(ctx, core.PodSucceeded, false, "", &exit)
	} else {
		r.tell(ctx, core.PodFailed, false, "", &exit)
	}
	// Who deletes it finds nothing left to end.
	<-r.stop
	if err := r.kubelet.client.CoreV1().Pods(r.pod.Namespace).Delete(ctx, r.pod.Name, *meta.NewDeleteOptions(0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// Runs a container to its end; its exit code.
func (r *running) run(ctx context.Context, container core.Container, isMain bool) (int, error) {
	mounts := map[string]string{}
	for _, mount := range container.VolumeMounts {
		mounts[mount.MountPath] = filepath.Join(r.mounts[mount.Name], mount.SubPath)
	}
	words := append(append([]string{}, container.Command...), container.Args...)
	var command []string
	for _, word := range words {
		translated, err := r.translate(word, mounts)
		if err != nil {
			return 0, err
		}
		command = append(command, translated)
	}
	process := exec.Command(command[0], command[1:]...)
	process.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.folder}
	for _, variable := range container.Env {
		value, err := r.value(variable)
		if err == nil {
			value, err = r.translate(value, mounts)
		}
		if err != nil {
			return 0, err
		}
		process.Env = append(process.Env, variable.Name+"="+value)
	}
	log, err := os.OpenFile(filepath.Join(r.kubelet.folder, r.pod.Namespace+"_"+r.pod.Name+"_"+container.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	process.Stdout, process.Stderr, process.Dir = log, log, r.folder
	// With whoever started the kubelet, all that it has started ends.
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := process.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	if isMain {
		r.tell(ctx, core.PodRunning, false, "", nil)
	}
	return r.watch(ctx, container, process, ended, isMain), nil
}

// Asks the probes until the process ends, by itself or because the pod is to end.
func (r *running) watch(ctx context.Context, container core.Container, process *exec.Cmd, ended chan error, isMain bool) int {
	started, ready, failures := container.StartupProbe == nil, false, int32(0)
	stop := r.stop
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var kill <-chan time.Time
	for {
		select {
		case err := <-ended:
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				return exit.ExitCode()
			}
			return 0
		case <-kill:
			fmt.Fprintln(os.Stderr, r.pod.Name, "is killed after its grace period")
			_ = process.Process.Kill()
		case <-stop:
			stop = nil
			grace := 30 * time.Second
			if r.pod.DeletionGracePeriodSeconds != nil {
				grace = time.Duration(*r.pod.DeletionGracePeriodSeconds) * time.Second
			}
			kill = time.After(grace)
			if lifecycle := container.Lifecycle; lifecycle != nil && lifecycle.PreStop != nil && lifecycle.PreStop.Sleep != nil {
				time.Sleep(time.Duration(lifecycle.PreStop.Sleep.Seconds) * time.Second)
			}
			_ = process.Process.Signal(syscall.SIGTERM)
		case <-tick.C:
			if !isMain || stop == nil {
				continue
			}
			if !started {
				started = r.probe(container.StartupProbe)
				continue
			}
			if container.LivenessProbe != nil {
				if r.probe(container.LivenessProbe) {
					failures = 0
				} else if failures++; failures >= container.LivenessProbe.FailureThreshold {
					_ = process.Process.Signal(syscall.SIGTERM)
				}
			}
			if now := r.probe(container.ReadinessProbe); now != ready {
				ready = now
				r.tell(ctx, core.PodRunning, ready, "", nil)
			}
		}
	}
}

func (r *running) probe(probe *core.Probe) bool {
	if probe == nil || probe.HTTPGet == nil {
		return true
	}
	port := probe.HTTPGet.Port.String()
	for _, container := range r.pod.Spec.Containers {
		for _, each := range container.Ports {
			if each.Name == port {
				port = fmt.Sprint(each.ContainerPort)
			}
		}
	}
	client := http.Client{Timeout: time.Duration(max(probe.TimeoutSeconds, 1)) * time.Second}
	answer, err := client.Get("http://127.0.0.1:" + r.ports[port] + probe.HTTPGet.Path)
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode >= 200 && answer.StatusCode < 400
}

// Says how the pod is.
func (r *running) tell(ctx context.Context, phase core.PodPhase, ready bool, reason string, exit *int32) {
	own := r.kubelet.client.CoreV1().Pods(r.pod.Namespace)
	for range 20 {
		pod, err := own.Get(ctx, r.pod.Name, meta.GetOptions{})
		if err != nil || pod.UID != r.pod.UID {
			return
		}
		describe(pod, phase, ready, reason, exit, r.restarts)
		if _, err = own.UpdateStatus(ctx, pod, meta.UpdateOptions{}); err == nil {
			return
		}
	}
}

// A path in a container as one of this machine, and an address of all interfaces as one of its free ports; anything else as it is.
func (r *running) translate(word string, mounts map[string]string) (string, error) {
	if port, isAll := strings.CutPrefix(word, "0.0.0.0:"); isAll {
		if r.ports[port] == "" {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return "", err
			}
			r.ports[port] = fmt.Sprint(listener.Addr().(*net.TCPAddr).Port)
			listener.Close()
		}
		return "127.0.0.1:" + r.ports[port], nil
	}
	if name, isProgram := strings.CutPrefix(word, inImage); isProgram {
		return filepath.Join(r.programs, name), nil
	}
	if !strings.HasPrefix(word, "/") {
		return word, nil
	}
	for path, folder := range mounts {
		if rest, isBelow := strings.CutPrefix(word, path); isBelow && (rest == "" || rest[0] == '/') {
			return folder + rest, nil
		}
	}
	return "", fmt.Errorf("%s is not mounted", word)
}

func (r *running) value(variable core.EnvVar) (string, error) {
	if variable.ValueFrom == nil {
		return variable.Value, nil
	}
	path := variable.ValueFrom.FieldRef.FieldPath
	if label, isLabel := strings.CutPrefix(path, "metadata.labels['"); isLabel {
		return r.pod.Labels[strings.TrimSuffix(label, "']")], nil
	}
	if path == "metadata.name" {
		return r.pod.Name, nil
	}
	return "", fmt.Errorf("the kubelet of the tests knows no field %s", path)
}

// Writes the files of all volumes.
func (r *running) mount(ctx context.Context) error {
	client, namespace := r.kubelet.client.CoreV1(), r.pod.Namespace
	for _, volume := range r.pod.Spec.Volumes {
		folder := filepath.Join(r.folder, volume.Name)
		if claim := volume.PersistentVolumeClaim; claim != nil {
			folder = filepath.Join(r.kubelet.folder, "claims", namespace, claim.ClaimName)
		}
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		files := map[string][]byte{}
		switch {
		case volume.Secret != nil:
			found, err := client.Secrets(namespace).Get(ctx, volume.Secret.SecretName, meta.GetOptions{})
			if err != nil {
				return err
			}
			if files, err = chosen(found.Data, volume.Secret.Items); err != nil {
				return err
			}
		case volume.ConfigMap != nil:
			found, err := client.ConfigMaps(namespace).Get(ctx, volume.ConfigMap.Name, meta.GetOptions{})
			if err != nil {
				return err
			}
			for name, text := range found.Data {
				files[name] = []byte(text)
			}
		case volume.PersistentVolumeClaim != nil, volume.EmptyDir != nil:
		default:
			return fmt.Errorf("the kubelet of the tests knows no volume as %s", volume.Name)
		}
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
				return err
			}
		}
		r.mounts[volume.Name] = folder
	}
	return nil
}

func chosen(data map[string][]byte, items []core.KeyToPath) (map[string][]byte, error) {
	if len(items) == 0 {
		return data, nil
	}
	files := map[string][]byte{}
	for _, item := range items {
		content, isThere := data[item.Key]
		if !isThere {
			return nil, fmt.Errorf("the secret has no entry %s", item.Key)
		}
		files[item.Path] = content
	}
	return files, nil
}

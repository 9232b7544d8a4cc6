package main

import (
	"context"
	"fmt"
	"os"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	nodeName = "node"
	// How often pods are looked at.
	interval = 200 * time.Millisecond
	// Of a namespace whose pods run and are not ready.
	unready = "tests.millstream/unready"
	// Of a namespace whose pods that end do not end well.
	failing = "tests.millstream/failing"
)

// In the place of the scheduler and of one kubelet: each pod is bound to the one node and runs at once, whatever it asks for. Pods that
// are restarted always are ready; the others have succeeded. No process is started, but where a namespace asks for it (processes.go).
func pods(kubeconfig, folder string) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		fail(err.Error())
	}
	config.QPS, config.Burst = 200, 400
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		fail(err.Error())
	}
	ctx := context.Background()
	makeNode(ctx, client)
	running := &kubelet{client: client, folder: folder}
	for ; ; time.Sleep(interval) {
		namespaces, err := client.CoreV1().Namespaces().List(ctx, meta.ListOptions{})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			continue
		}
		for _, namespace := range namespaces.Items {
			all, err := client.CoreV1().Pods(namespace.Name).List(ctx, meta.ListOptions{})
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				continue
			}
			claims, err := client.CoreV1().PersistentVolumeClaims(namespace.Name).List(ctx, meta.ListOptions{})
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				continue
			}
			for _, claim := range claims.Items {
				if err := provide(ctx, client, &claim); err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
			}
			for _, pod := range all.Items {
				if image := namespace.Annotations[programs]; image != "" && pod.Spec.NodeName != "" {
					running.see(ctx, &pod, image)
					continue
				}
				// Somebody else may have changed or removed it: it is looked at again.
				if err := step(ctx, client, &pod, namespace.Annotations); err != nil && !errors.IsConflict(err) && !errors.IsNotFound(err) {
					fmt.Fprintln(os.Stderr, err)
				}
			}
		}
	}
}

func makeNode(ctx context.Context, client kubernetes.Interface) {
	plenty := core.ResourceList{
		core.ResourceCPU: resource.MustParse("1000"), core.ResourceMemory: resource.MustParse("1000Gi"), core.ResourcePods: resource.MustParse("1000"),
	}
	node := &core.Node{ObjectMeta: meta.ObjectMeta{Name: nodeName, Labels: map[string]string{"kubernetes.io/hostname": nodeName}}}
	made, err := client.CoreV1().Nodes().Create(ctx, node, meta.CreateOptions{})
	if err != nil {
		fail(err.Error())
	}
	made.Status.Capacity, made.Status.Allocatable = plenty, plenty
	made.Status.Conditions = []core.NodeCondition{{Type: core.NodeReady, Status: core.ConditionTrue, LastHeartbeatTime: meta.Now()}}
	if _, err := client.CoreV1().Nodes().UpdateStatus(ctx, made, meta.UpdateOptions{}); err != nil {
		fail(err.Error())
	}
}

func step(ctx context.Context, client kubernetes.Interface, pod *core.Pod, said map[string]string) error {
	own := client.CoreV1().Pods(pod.Namespace)
	if pod.DeletionTimestamp != nil {
		return own.Delete(ctx, pod.Name, *meta.NewDeleteOptions(0))
	}
	if pod.Spec.NodeName == "" {
		binding := &core.Binding{ObjectMeta: meta.ObjectMeta{Name: pod.Name}, Target: core.ObjectReference{Kind: "Node", Name: nodeName}}
		return own.Bind(ctx, binding, meta.CreateOptions{})
	}
	phase, ready := core.PodRunning, said[unready] == ""
	if pod.Spec.RestartPolicy != core.RestartPolicyAlways {
		phase, ready = core.PodSucceeded, false
		if said[failing] != "" {
			phase = core.PodFailed
		}
	}
	if pod.Status.Phase == phase && isReady(pod) == ready {
		return nil
	}
	describe(pod, phase, ready, "", nil, 0)
	_, err := own.UpdateStatus(ctx, pod, meta.UpdateOptions{})
	return err
}

func describe(pod *core.Pod, phase core.PodPhase, ready bool, reason string, exit *int32, restarts int32) {
	now := meta.Now()
	if pod.Status.StartTime == nil {
		pod.Status.StartTime = &now
	}
	pod.Status.Phase, pod.Status.Message = phase, reason
	is := func(holds bool) core.ConditionStatus {
		if holds {
			return core.ConditionTrue
		}
		return core.ConditionFalse
	}
	pod.Status.Conditions = nil
	for _, each := range []core.PodCondition{
		{Type: core.PodScheduled, Status: core.ConditionTrue}, {Type: core.PodInitialized, Status: is(phase != core.PodPending)},
		{Type: core.ContainersReady, Status: is(ready)}, {Type: core.PodReady, Status: is(ready)},
	} {
		each.LastTransitionTime = now
		pod.Status.Conditions = append(pod.Status.Conditions, each)
	}
	pod.Status.ContainerStatuses = nil
	for _, container := range pod.Spec.Containers {
		state := core.ContainerState{Running: &core.ContainerStateRunning{StartedAt: now}}
		switch phase {
		case core.PodPending:
			state = core.ContainerState{Waiting: &core.ContainerStateWaiting{Reason: "NotStarted", Message: reason}}
		case core.PodSucceeded, core.PodFailed:
			ended := &core.ContainerStateTerminated{StartedAt: now, FinishedAt: now}
			if exit != nil {
				ended.ExitCode = *exit
			}
			state = core.ContainerState{Terminated: ended}
		}
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, core.ContainerStatus{
			Name: container.Name, Image: container.Image, Ready: ready, State: state, RestartCount: restarts,
		})
	}
}

func isReady(pod *core.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == core.PodReady {
			return condition.Status == core.ConditionTrue
		}
	}
	return false
}

// In the place of whoever provides volumes: each claim gets one of its size.
func provide(ctx context.Context, client kubernetes.Interface, claim *core.PersistentVolumeClaim) error {
	if claim.Spec.VolumeName != "" || claim.Status.Phase == core.ClaimBound {
		return nil
	}
	class := ""
	if claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	volume := &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: "volume-" + string(claim.UID)},
		Spec: core.PersistentVolumeSpec{
			Capacity:                      claim.Spec.Resources.Requests,
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimRetain,
			StorageClassName:              class,
			ClaimRef:                      &core.ObjectReference{Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
			PersistentVolumeSource:        core.PersistentVolumeSource{HostPath: &core.HostPathVolumeSource{Path: "/nowhere"}},
		},
	}
	_, err := client.CoreV1().PersistentVolumes().Create(ctx, volume, meta.CreateOptions{})
	if errors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
